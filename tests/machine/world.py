"""A lab whose engine is a model and whose hub, settler and keeper are functions that can be cut off anywhere.

Owns the modelled engine, the fuse that blows in the middle of something, and the steps of hub and keeper. The ledger, settlement,
line, policy and the settler's round are the real ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from spawner import policy, settlement, sharing
from spawner.errors import DeniedError, EngineUnknown, LabError, LedgerError
from spawner.grants import Allowance, LineRules, PolicyRules, ProfileRule, SharingRule
from spawner.ledger import Ledger
from spawner.model import EngineFacts, Gpu, GpuRequest, Holder, Lease, Presence
from spawner.records import Remains, Ticket
from spawner.runtime import Lab
from spawner.services.settler import settle_once
from tests.unit.values import T0, make_facts, make_gpu, shipped_config

# Few GPUs and few people: what can collide is to collide often.
SHARED = make_gpu(7, node="n2")
GPUS = (make_gpu(0, node="n1"), make_gpu(1, node="n1"), make_gpu(4, node="n2"), make_gpu(5, node="n2", model="A100"), SHARED)
PROFILES: dict[str, GpuRequest] = {
    "cpu": GpuRequest("cpu", 0),
    "one": GpuRequest("one", 1),
    "short": GpuRequest("short", 1),
    "two": GpuRequest("two", 2),
    "a100": GpuRequest("a100", 1, ("A100",)),
    "seat": GpuRequest("seat", 1, (), 0, "shared"),
}
USERS = ("ana", "bo", "cy")
HOLDERS = tuple(Holder(user, server) for user in USERS for server in ("", "b"))
GPUS_AT_ONCE = {"ana": 3, "bo": 2, "cy": 3}
LABS_AT_ONCE = 2
RULES = PolicyRules(
    everyone=Allowance(labs_at_once=LABS_AT_ONCE),
    users={
        "ana": Allowance(gpus_at_once=3, priority=2),
        "bo": Allowance(gpus_at_once=2),
        "cy": Allowance(gpus_at_once=3, priority=0),
    },
    profiles={"short": ProfileRule(allowance=Allowance(life=3600)), "two": ProfileRule(allowance=Allowance(life=20_000))},
)
CONFIG = dataclasses.replace(
    shipped_config(),
    policy=RULES,
    line=LineRules(claim=timedelta(minutes=5), tickets_per_user=2),
    gpus=dataclasses.replace(shipped_config().gpus, sharing=(SharingRule(frozenset({SHARED.uuid}), frozenset(), 2),)),
    limits=dataclasses.replace(shipped_config().limits, start_seconds=60, http_seconds=60, stop_seconds=10),
)
UNITS = sharing.units(GPUS, CONFIG.gpus.sharing)
COMPILED: dict[Any, Any] = {}  # statements, compiled once for all lives of the lab
# A creation is on its way for as long as a call may last; `Patience.flight` is ten seconds longer.
TRAVELS = CONFIG.limits.start_seconds + 9


class Crash(BaseException):
    """The process is killed here."""


class Fuse:
    """Blows at the n-th thing that is done from now on: as an error of the thing, or as the end of the process."""

    def __init__(self) -> None:
        self.left = 0
        self.kills = False
        self.blown = False

    def set(self, fault: int) -> None:
        """0 sets none; an odd number is an error, an even one a crash, the later the higher."""
        self.left, self.kills, self.blown = (fault + 1) // 2, fault % 2 == 0, False

    def burn(self, error: Callable[[], Exception]) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                self.blown = True
                raise Crash if self.kills else error()


def _disk_error() -> Exception:
    return sa.exc.OperationalError("", {}, sqlite3.OperationalError("disk I/O error"))


def _no_answer() -> Exception:
    return EngineUnknown("The engine did not answer.")


@dataclass
class Box:
    """A container as the engine has it."""

    gpus: tuple[str, ...]
    state: Presence = Presence.CREATED


@dataclass
class Creation:
    """A creation on its way: the engine carries it out at any moment before `deadline`, or never."""

    gpus: tuple[str, ...]
    deadline: float


class ModelEngine:
    """The fact: what containers there are, whatever anybody believes."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self.boxes: dict[str, Box] = {}
        self.travelling: dict[str, Creation] = {}
        # Released leases whose container came all the same: strays, which are to be removed.
        self.beyond: set[str] = set()
        self.frozen = False

    def _call(self) -> None:
        self.fuse.burn(_no_answer)
        if self.frozen:
            raise EngineUnknown("The engine stands still.")

    def presence(self, lease_id: str) -> Presence:
        try:
            self._call()
        except EngineUnknown:
            return Presence.UNKNOWN
        box = self.boxes.get(lease_id)
        return box.state if box else Presence.ABSENT

    def survey(self, _lab: str) -> dict[str, Presence]:
        self._call()
        return {lease_id: box.state for lease_id, box in self.boxes.items()}

    def gpus_by_lease(self, _lab: str) -> dict[str, frozenset[str]]:
        self._call()
        return {lease_id: frozenset(box.gpus) for lease_id, box in self.boxes.items()}

    def remove(self, lease_id: str, _stop_seconds: int) -> None:
        self._call()
        self.boxes.pop(lease_id, None)
        self._call()

    def facts(self) -> EngineFacts:
        self._call()
        return make_facts()

    def remains(self, lease_id: str) -> Remains | None:
        self._call()
        return Remains(1, False, "", 0, b"") if lease_id in self.boxes else None

    def arrive(self, lease_id: str) -> None:
        """A creation is carried out."""
        self.boxes[lease_id] = Box(self.travelling.pop(lease_id).gpus)


class ModelInventory:
    def gpus(self) -> tuple[Gpu, ...]:
        return GPUS

    def links(self) -> dict[frozenset[str], int]:
        return {frozenset((GPUS[0].uuid, GPUS[1].uuid)): 1}


@dataclass
class Session:
    """What the hub remembers of a start or a running lab. `stage`: acquired, sent, created, started, bound."""

    lease: Lease
    stage: str
    began: float


class World:
    """One lab in one folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ledger.sqlite"
        template = folder / "template.sqlite"
        if not template.exists():
            Ledger.open(f"sqlite:///{template}").close()
        for name in (self.file, *(folder / f"ledger.sqlite-{end}" for end in ("wal", "shm"))):
            name.unlink(missing_ok=True)
        shutil.copy(template, self.file)
        self.seconds = 0.0
        self.fuse = Fuse()
        self.engine = ModelEngine(self.fuse)
        self.sessions: dict[Holder, Session] = {}
        self.ids = (f"{n:032x}" for n in itertools.count(1))
        self.truth = sqlite3.connect(self.file, isolation_level=None)
        self.open()

    # --- processes ----------------------------------------------------------

    def open(self) -> None:
        """A new hub, settler and keeper, which know what is on the disk and nothing else."""
        ledger = Ledger.open(f"sqlite:///{self.file}")
        ledger.half_life = CONFIG.line.half_life
        engine = ledger._engine
        engine.dispose()
        engine.update_execution_options(compiled_cache=COMPILED)
        sa.event.listen(engine, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous=OFF").close())
        sa.event.listen(engine, "before_cursor_execute", lambda *_: self.fuse.burn(_disk_error))
        sa.event.listen(engine, "commit", lambda _: self.fuse.burn(_disk_error))
        self.ledger = ledger
        self.lab = Lab(CONFIG, ledger, self.engine, ModelInventory(), self.now, lambda: next(self.ids))  # type: ignore[arg-type]

    def close(self) -> None:
        self.ledger.close()
        self.truth.close()

    def restart(self) -> None:
        """The hub ends without a word and starts again; it remembers labs that were up."""
        self.fuse.set(0)
        self.ledger.close()
        self.sessions = {holder: one for holder, one in self.sessions.items() if one.stage == "bound"}
        self.open()
        self.ledger.renew_claims(self.now() + CONFIG.line.claim)
        for holder, session in list(self.sessions.items()):
            if self.engine.presence(session.lease.id) not in (Presence.RUNNING, Presence.UNKNOWN):
                self.end_of(holder)

    def at_risk(self, fault: int, step: Any, *args: Any) -> Any:
        """Do something with the fuse set; a crash is followed by a restart, an error is what its caller would see."""
        self.fuse.set(fault)
        try:
            return step(*args)
        except Crash:
            self.restart()
        except LabError as error:
            assert self.fuse.blown or not isinstance(error, LedgerError), "the ledger failed without a reason"
        finally:
            self.fuse.set(0)
        return None

    def now(self) -> datetime:
        return T0 + timedelta(seconds=self.seconds)

    # --- the hub ------------------------------------------------------------

    def settle_holder(self, holder: Holder) -> None:
        """As `GpuSpawner._settle_holder`."""
        lab = self.lab
        for lease in lab.ledger.active_of(holder):
            lab.ledger.drain(lease.id, lab.clock())
        settlement.settle_all(lab.ledger.active_of(holder), lab.ledger, lab.engine, lab.clock, lab.patience)  # type: ignore[arg-type]

    def ask(self, holder: Holder, request: GpuRequest) -> Lease | Ticket | None:
        """As `GpuSpawner._start` up to the lease. None where the hub has this lab already, or the request is denied."""
        if holder in self.sessions:
            return None
        try:
            gpus = self.lab.leasable_gpus()
            self.settle_holder(holder)
            made = self.ledger.acquire(
                request, holder, gpus, lease_id=next(self.ids), now=self.now(), admit=policy.admit(CONFIG, ()),
                choose=self.lab.place,
            )  # fmt: skip
        except DeniedError:
            made = None
        if isinstance(made, Lease):
            self.sessions[holder] = Session(made, "acquired", self.seconds)
        return made

    def proceed(self, holder: Holder) -> None:
        """One more step of a start; a step that fails ends it."""
        session = self.sessions[holder]
        lease = session.lease
        try:
            if session.stage == "acquired":
                self.engine.travelling[lease.id] = Creation(lease.gpus, self.seconds + TRAVELS)
                session.stage = "sent"
            elif session.stage == "created":
                self.ledger.answered(lease.id, "container")
                session.stage = "answered"
            elif session.stage == "answered":
                self.engine._call()
                box = self.engine.boxes.get(lease.id)
                if box is None:
                    raise EngineUnknown("It is gone.")
                box.state = Presence.RUNNING
                session.stage = "started"
            elif session.stage == "started":
                self.ledger.bind(lease.id, self.now())
                session.stage = "bound"
        except LabError:
            self.end_of(holder)

    def end_of(self, holder: Holder) -> None:
        """As JupyterHub after a failed start or an ended lab: the post-stop hook, then nothing is remembered."""
        self.sessions.pop(holder, None)
        with contextlib.suppress(LabError):
            self.settle_holder(holder)

    def stop(self, holder: Holder) -> None:
        """As `GpuSpawner.stop`."""
        lease = self.sessions[holder].lease
        for step in (
            lambda: self.ledger.drain(lease.id, self.now()),
            lambda: self.engine.remove(lease.id, 1),
        ):
            with contextlib.suppress(LabError):
                step()
        self.end_of(holder)

    def restart_in_place(self, holder: Holder) -> None:
        """As the page's *Restart it on the same GPUs*."""
        lease = self.sessions[holder].lease
        request = PROFILES[lease.profile]
        ids = (next(self.ids), next(self.ids))
        self.ledger.restart_after(lease, request, ids, CONFIG.line.claim, holder.user, self.now())
        self.stop(holder)

    def refused(self, holder: Holder) -> None:
        """The engine refuses a creation."""
        lease = self.sessions[holder].lease
        self.engine.travelling.pop(lease.id, None)
        with contextlib.suppress(LabError):
            self.ledger.answered(lease.id, "")
        self.end_of(holder)

    # --- settler, keeper, time -----------------------------------------------

    def settle(self) -> None:
        settle_once(self.lab)

    def advance(self) -> tuple[Ticket, ...]:
        gpus = self.lab.leasable_gpus()
        plan = lambda line: self.lab.plan(line).turns  # noqa: E731
        return self.ledger.advance(gpus, self.now(), plan, self.lab.new_id, CONFIG.line.claim)

    def pass_time(self, seconds: float) -> None:
        """Time goes on: starts run out of theirs, what travels arrives; an engine that stands still delays what it was asked."""
        end = self.seconds + seconds
        if self.engine.frozen:
            self.settle()
            for creation in self.engine.travelling.values():
                creation.deadline += seconds
        for lease_id, creation in list(self.engine.travelling.items()):
            if creation.deadline < end:
                self.engine.arrive(lease_id)
        late = [h for h, s in self.sessions.items() if s.stage != "bound" and s.began + 120 < end]
        late += [h for h, s in self.sessions.items() if s.stage in ("acquired", "sent") and s.began + 60 < end]
        for holder in dict.fromkeys(late):
            self.end_of(holder)
        self.seconds = end

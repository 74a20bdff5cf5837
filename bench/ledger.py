"""How long the ledger takes for a request, on a big lab with a long past: `python -m bench.ledger`.

Owns what is timed and in which order. Every figure is set against one bare commit of a single row in a database of its own on the
same disk, with the same settings, made in between; so a slow disk makes both slow.
"""

from __future__ import annotations

import itertools
import math
import secrets
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

from bench import outcome, plot, scene
from bench.samples import percentile
from spawner import labfile, placement, policy, settlement
from spawner.engine import Engine
from spawner.inventory import StaticInventory
from spawner.ledger import Ledger, Line, Turn
from spawner.model import Gpu, GpuRequest, Holder, Lease, Presence
from spawner.records import Grant, Standing, Ticket
from spawner.runtime import Lab
from spawner.services import settler
from tests.support.hub import REPO

T = TypeVar("T")
BARE = "bare commit"
TARGET = 5.0
# What the issue holds to the target; the rest is told beside it.
HELD_TO_TARGET = (
    "acquire: lab without GPU",
    "acquire: free GPU",
    "acquire: becomes a ticket",
    "acquire: takes its claim",
    "settle: lab that was asked to end",
)
HISTORIES = (1_000, 10_000, 100_000, 1_000_000)
CLAIMS_AT_ONCE = 16
CPU = GpuRequest("cpu", 0)
FREE = GpuRequest("gpu-1", 1, (scene.FREE,))
WAITED_FOR = GpuRequest("gpu-2", 2, (scene.WAITED_FOR,))


class MemoryEngine:
    """An engine that answers at once: what it takes is then the ledger's and settlement's."""

    def __init__(self) -> None:
        self.running: set[str] = set()

    def presence(self, lease_id: str) -> Presence:
        """Whether the container is there."""
        return Presence.RUNNING if lease_id in self.running else Presence.ABSENT

    def survey(self, _lab: str) -> dict[str, Presence]:
        """Every container."""
        return dict.fromkeys(self.running, Presence.RUNNING)

    def remove(self, lease_id: str, _seconds: int) -> None:
        """The container goes at once."""
        self.running.discard(lease_id)


@dataclass
class Meter:
    """Seconds of each operation."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, what: str, action: Callable[[], T]) -> T:
        """Do it, and note how long it took."""
        began = time.perf_counter()
        result = action()
        self.taken.setdefault(what, []).append(time.perf_counter() - began)
        return result


class Bare:
    """A database with one small table on the same disk: the price of making a single row last."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def commit(self) -> None:
        """Write one row."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO rows (text) VALUES ('one row')")
        self.connection.execute("COMMIT")


class Rounds:
    """The ledger of the big lab, and one round of everything that is timed."""

    def __init__(self, ledger: Ledger, bare: Bare) -> None:
        self.ledger, self.bare, self.meter = ledger, bare, Meter()
        self.gpus = scene.gpus()
        config = labfile.load(REPO / "lab.yaml")
        self.engine = MemoryEngine()
        self.engine.running = {lease.id for lease in ledger.active()}
        self.config = config
        self.admit = policy.admit(config, ("vision",))
        self.lab = Lab(config, ledger, cast(Engine, self.engine), StaticInventory(()), clock=self.now)
        # A ticket stays in line: the next measurement needs other names.
        run = secrets.token_hex(2)
        self.cpu, self.free, self.waiting = (scene.holders(f"{name}{run}") for name in ("cpu", "free", "wait"))
        self.claims: list[Ticket] = []
        self._began = time.monotonic()

    def now(self) -> datetime:
        """The present moment of the imagined lab."""
        return scene.NOW + timedelta(seconds=time.monotonic() - self._began)

    def acquire(self, what: str, request: GpuRequest, holder: Holder) -> Lease | Ticket:
        """A person asks, as the spawner does it."""
        return self.meter(
            f"acquire: {what}",
            lambda: self.ledger.acquire(
                request, holder, self.gpus, lease_id=secrets.token_hex(16), now=self.now(), admit=self.generous,
                choose=placement.packed,
            ),
        )  # fmt: skip

    def generous(self, request: GpuRequest, holder: Holder, standing: Standing) -> Grant:
        """The lab's own policy, whose limits on one person the few people of the imagined lab would soon reach."""
        return self.admit(request, holder, Standing((), 0, standing.gpu_seconds, standing.maintenance))

    def all(self) -> None:
        """One round: a bare commit before each of the others, so that what disturbs the disk meets both."""
        bare = lambda: self.meter(BARE, self.bare.commit)  # noqa: E731
        bare()
        cpu = self.acquire("lab without GPU", CPU, next(self.cpu))
        bare()
        free = self.acquire("free GPU", FREE, next(self.free))
        bare()
        ticket = self.acquire("becomes a ticket", WAITED_FOR, next(self.waiting))
        claim = self.claim()
        bare()
        claimed = self.acquire("takes its claim", claim.request, claim.holder)
        assert isinstance(cpu, Lease), cpu
        assert isinstance(free, Lease), free
        assert isinstance(claimed, Lease), claimed
        assert isinstance(ticket, Ticket), ticket
        for lease in (cpu, free, claimed):
            bare()
            self.life(lease)
        bare()
        self.settle("lab that was asked to end", cpu)
        self.settle("lab that was asked to end", free)
        bare()
        # It died by itself: settlement drains it and then releases it, in two commits.
        self.engine.running.discard(claimed.id)
        self.settle("lab that died", claimed, drain=False)

    def life(self, lease: Lease) -> None:
        """What the ledger writes between acquire and the end."""
        self.engine.running.add(lease.id)
        self.meter("answered", lambda: self.ledger.answered(lease.id, lease.id))
        self.meter("bind", lambda: self.ledger.bind(lease.id, self.now()))

    def settle(self, what: str, lease: Lease, drain: bool = True) -> None:
        """The lab ends."""
        if drain:
            self.meter("drain", lambda: self.ledger.drain(lease.id, self.now()))
            self.engine.remove(lease.id, 0)
        now = cast(Lease, self.ledger.lease(lease.id))
        args = (now, self.ledger, self.engine, self.now, self.lab.patience)
        action = self.meter(f"settle: {what}", lambda: settlement.settle(*args))
        assert action is settlement.Action.RELEASE, action

    def claim(self) -> Ticket:
        """A ticket that has a claim; claims are made a few at a time, on the GPUs that are free."""
        if not self.claims:
            self.meter("line: whose turn it is, all tickets", lambda: self.lab.plan(self.ledger.line(self.gpus, self.now())))
            made = self.meter(
                f"line: {CLAIMS_AT_ONCE} claims",
                lambda: self.ledger.advance(
                    self.gpus, self.now(), self._turns, lambda: secrets.token_hex(16), timedelta(hours=1)
                ),
            )
            self.claims = list(made)
        return self.claims.pop()

    def _turns(self, line: Line) -> Sequence[Turn]:
        held = {uuid for lease in line.leases for uuid in lease.gpus}
        free: Iterator[Gpu] = (gpu for gpu in line.gpus if gpu.model == scene.FREE and gpu.uuid not in held)
        pairs = zip(*[free] * 2, strict=False)
        return [
            Turn(ticket, (a.uuid, b.uuid), Grant(ticket.request))
            for ticket, (a, b) in itertools.islice(zip(line.waiting, pairs, strict=False), CLAIMS_AT_ONCE)
        ]

    def once(self) -> None:
        """The settler's timer, which looks at all labs."""
        self.meter("settler: one look at all labs", lambda: settler.settle_once(self.lab))


def measure(folder: Path, histories: Sequence[int], rounds: int, tickets: int) -> dict[int, dict[str, list[float]]]:
    """History → operation → seconds of each run of it."""
    path = folder / "ledger.sqlite"
    scene.made(path).close()
    outcome.say(f"{scene.fill_present(path, tickets)} labs run, {tickets} tickets wait")
    bare = Bare(folder / "bare.sqlite")
    filled, found = 0, {}
    for history in histories:
        scene.fill_past(path, filled, history)
        filled = history
        ledger = scene.made(path)
        try:
            found[history] = _measured(Rounds(ledger, bare), rounds)
        finally:
            ledger.close()
        outcome.say(f"{history:,} past leases:")
        outcome.say(table(found[history]))
    return found


def _measured(state: Rounds, rounds: int) -> dict[str, list[float]]:
    # The first rounds compile statements and fill caches.
    for _ in range(min(20, rounds)):
        state.all()
    state.meter.taken.clear()
    stopped = threading.Event()
    # As the settler does beside the hub.
    tidying = threading.Thread(target=_tidy, args=(state.ledger, stopped))
    tidying.start()
    try:
        for number in range(rounds):
            state.all()
            if number % 10 == 0:
                state.once()
    finally:
        stopped.set()
        tidying.join()
    return state.meter.taken


def _tidy(ledger: Ledger, stopped: threading.Event) -> None:
    while not stopped.wait(settler.PERIOD_SECONDS):
        ledger.tidy()


def table(taken: dict[str, list[float]]) -> str:
    """One row per operation: milliseconds, and how often the bare commit's of the same percentile."""
    bare = {percent: percentile(taken[BARE], percent) for percent in (50, 99)}
    lines = ["| operation | runs | p50 ms | p99 ms | p50 ÷ bare | p99 ÷ bare | target |", "| --- |" + " ---: |" * 6]
    for what in sorted(taken, key=lambda name: (name != BARE, name)):
        p50, p99 = (percentile(taken[what], percent) for percent in (50, 99))
        ratio = p99 / bare[99]
        target = ("met" if ratio <= TARGET else "missed") if what in HELD_TO_TARGET else ""
        lines.append(
            f"| {what} | {len(taken[what])} | {p50 * 1e3:.3f} | {p99 * 1e3:.3f} | {p50 / bare[50]:.2f} | {ratio:.2f} | {target} |"
        )
    return "\n".join(lines)


def growth(found: dict[int, dict[str, list[float]]]) -> str:
    """The plot: milliseconds over past leases."""
    lines = {
        f"{what} p{percent}": [(float(history), percentile(taken[what], percent) * 1e3) for history, taken in found.items()]
        for what in (BARE, *HELD_TO_TARGET)
        for percent in (50, 99)
    }
    return plot.svg("The ledger's time for a request over its past", "past leases", "milliseconds", lines)


def growth_table(found: dict[int, dict[str, list[float]]]) -> str:
    """One row per operation: the median over the past, and how it grew against the logarithm of the past."""
    histories = sorted(found)
    most = math.log(histories[-1]) / math.log(histories[0])
    lines = [
        f"| median in ms after so many past leases | {' | '.join(f'{history:,}' for history in histories)} | grew to | |",
        "| --- |" + " ---: |" * (len(histories) + 1) + " --- |",
    ]
    for what in (BARE, *HELD_TO_TARGET):
        medians = [percentile(found[history][what], 50) for history in histories]
        grew = medians[-1] / medians[0]
        word = ("no worse" if grew <= most else "worse") + " than logarithmic" if what != BARE else ""
        lines.append(f"| {what} | {' | '.join(f'{m * 1e3:.3f}' for m in medians)} | {grew:.2f} | {word} |")
    return "\n".join([*lines, "", f"The logarithm of the past grows to {most:.2f} of the first."])


def report(found: dict[int, dict[str, list[float]]], picture: str, tickets: int) -> str:
    """The readable result."""
    about = (
        f"1,024 GPUs on {scene.NODES} nodes, {tickets:,} tickets in line. Each past lease has its GPUs and four entries of the"
        f" journal. The target is a p99 of at most {TARGET:g} times the p99 of the bare commit."
    )
    parts = [about, f"![How long each request to the ledger takes, over the number of past leases]({picture})"]
    if len(found) > 1:
        parts.append(growth_table(found))
    for history, taken in sorted(found.items(), reverse=True):
        parts.append(f"## {history:,} past leases\n\n{table(taken)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = outcome.parser("ledger", "Measure the ledger of a big lab against one bare commit on the same disk.")
    parser.add_argument("--histories", type=int, nargs="+", default=list(HISTORIES), help="past leases, fewest first")
    parser.add_argument("--rounds", type=int, default=400, help="rounds for each (default: 400)")
    parser.add_argument("--tickets", type=int, default=5000, help="tickets in line (default: 5000)")
    parser.add_argument("--folder", type=Path, default=None, help="where the databases are (default: the folder of the results)")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    origin = outcome.begun(asked, engine=False)
    with tempfile.TemporaryDirectory(prefix=".ledger-", dir=asked.folder or asked.out) as folder:
        found = measure(Path(folder), sorted(asked.histories), asked.rounds, asked.tickets)
    target = outcome.path(asked.out, "ledger", origin)
    target.with_suffix(".svg").write_text(growth(found))
    text = report(found, target.with_suffix(".svg").name, asked.tickets)
    rounded = {
        str(history): {what: [round(x * 1e6) for x in xs] for what, xs in taken.items()} for history, taken in found.items()
    }
    outcome.write(target, "The ledger of a big lab", origin, text, {"microseconds": rounded})
    return 0


if __name__ == "__main__":
    sys.exit(main())

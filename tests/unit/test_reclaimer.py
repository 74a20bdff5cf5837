"""The rounds over labs that hold GPUs: each is looked at by itself, told, and stopped through the hub; none unseen."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from spawner import labfile
from spawner.engine import Engine
from spawner.errors import EngineUnknown, LabError, MaintenanceError, UnavailableError
from spawner.grants import Allowance, PolicyRules, ReclaimRules, SharingRule
from spawner.inventory import StaticInventory
from spawner.ledger import Ledger
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.pages.notice_handlers import extend, notices, set_aside
from spawner.placement import packed
from spawner.records import GpuProcess, GpuSample, Grant, Maintenance
from spawner.runtime import Lab
from spawner.services import jupyter, troubles
from spawner.services import reclaim as service
from spawner.services.jupyter import Kernels
from spawner.services.reclaim import Reclaimer, gpu_use
from spawner.told import TroubleKind
from spawner.vitals import Inside, Vitals
from tests.unit.values import SHIPPED, T0, after, make_gpu, make_lease

RULES = ReclaimRules(notice=timedelta(minutes=10), warning=timedelta(minutes=20), grace=timedelta(minutes=5))
GPUS = [make_gpu(i, simulated=True) for i in range(4)]
IDS = (f"{n:032x}" for n in itertools.count(1))


class Hub:
    """Stands in for the hub's API; what is asked to stop can be read from `stopped`."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.stopped: list[str] = []
        self.status: int | None = 202
        self.trust_env = True

    def delete(self, url: str, **more: Any) -> Any:
        self.stopped.append(url)
        if self.status is None:
            raise requests.ConnectionError("away")
        answer = requests.Response()
        answer.status_code = self.status
        return answer


class World:
    """A lab with a ledger of its own, whose containers and Jupyter servers a test tells what to answer."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, gpus=GPUS, **changes: Any) -> None:
        self.seconds = 0.0
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
        config = dataclasses.replace(labfile.load(SHIPPED), reclaim=dataclasses.replace(RULES, **changes))
        sharing = (SharingRule(frozenset({GPUS[0].uuid}), frozenset(), 2, timedelta(minutes=5)),)
        self.shared = dataclasses.replace(config, gpus=dataclasses.replace(config.gpus, sharing=sharing))
        self.lab = Lab(config, self.ledger, Engine(), StaticInventory(gpus), clock=lambda: after(self.seconds))
        self.hub = Hub()
        self.counters: dict[str, Vitals | Exception] = {}
        self.kernels: dict[str, Kernels | None] = {}
        self.gone: dict[str, str | None] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(service.time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(jupyter, "ask", self._ask)
        self.reclaimer = self.fresh()

    def fresh(self) -> Reclaimer:
        made = Reclaimer(self.lab, "http://hub/api/", "secret", self.hub)  # type: ignore[arg-type]
        made._vitals = self  # type: ignore[assignment]
        made._troubles._vitals = self  # type: ignore[assignment]
        return made

    # --- in place of a VitalsReader

    def read(self, container: str) -> Vitals:
        found = self.counters.get(container, Vitals(0, 0, complete=True))
        if isinstance(found, Exception):
            raise found
        return found

    def inside(self, container: str) -> Inside:
        if container == "away":
            raise EngineUnknown("The engine does not answer.")
        return Inside(1, "127.0.0.1", container)

    def forget_all_but(self, containers: set[str]) -> None:
        pass

    def lost(self, container: str) -> str | None:
        return self.gone.get(container, "")

    def _ask(self, labs: Any) -> dict[str, Kernels]:
        answers = {key: self.kernels.get(inside.token, Kernels(0, None)) for key, (_, inside) in labs.items()}
        self.asked += [inside.token for _, inside in labs.values()]
        return {key: answer for key, answer in answers.items() if answer is not None}

    # ---

    def start(self, who: str, container: str = "", units=None, sharing: str = "shared") -> Lease:
        user, _, server = who.partition("/")
        lease = self.ledger.acquire(
            GpuRequest("gpu-1", 1, sharing=sharing if units else "exclusive"), Holder(user, server), units or GPUS,
            lease_id=next(IDS), now=self.lab.clock(), admit=lambda asked, holder, standing: Grant(asked), choose=packed,
        )  # fmt: skip
        assert isinstance(lease, Lease)
        self.ledger.answered(lease.id, container or user)
        self.ledger.bind(lease.id, self.lab.clock())
        return lease

    def minutes(self, number: float, reclaimer: Reclaimer | None = None) -> None:
        for _ in range(int(2 * number)):
            self.seconds += 30
            (reclaimer or self.reclaimer).work()


@pytest.fixture
def world(tmp_path: Path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "gpulab.reclaim")
    made = World(tmp_path, monkeypatch)
    yield made
    made.ledger.close()


@pytest.fixture(autouse=True)
def nothing_is_probed(monkeypatch):
    monkeypatch.setattr(troubles, "PROBE_SECONDS", float("inf"))


def test_an_idle_lab_is_stopped_through_the_hub_with_its_reason_and_accounted(world, caplog):
    lease = world.start("ana b/train")
    world.minutes(26.5)
    assert world.hub.stopped[:1] == ["http://hub/api/users/ana%20b/servers/train"]
    assert world.hub.headers["Authorization"] == "token secret"
    assert not world.hub.trust_env
    world.ledger.drain(lease.id, world.lab.clock())
    world.ledger.release(lease.id, world.lab.clock(), "gone")
    (ending,) = world.ledger.told("ana b", world.lab.clock()).endings
    assert ending.text == "The lab was stopped because it had not used its 1 GPU for 25 minutes."
    assert [event.action for event in world.ledger.events() if event.actor == "lab"][1:3] == ["lease.notice", "lease.warn"]
    assert "stop ana b/train: The lab was stopped" in caplog.text
    assert "(gpu 0%, gpu memory ?, kernels busy 0, cpu 0%, moved 0 B/s, used ?)" in caplog.text


def test_work_of_any_kind_is_left_alone_and_not_asked_about(world):
    for who in ("cpu", "data", "cell"):
        world.start(who)
    world.kernels["cell"] = Kernels(1, None)
    for _ in range(60):
        world.counters["cpu"] = Vitals(world.seconds / 2, 0, complete=True)
        world.counters["data"] = Vitals(0, int(world.seconds * 1e6), complete=True)
        world.minutes(0.5)
    assert world.hub.stopped == []
    assert notices(world.lab, "cpu")["notices"] == []
    assert world.asked.count("cpu") == 1, "only while its counters say nothing yet"


@pytest.mark.parametrize("what", ["counters", "kernels", "way in", "sample"])
def test_what_cannot_be_told_keeps_a_lab(tmp_path, monkeypatch, what):
    gpus = [dataclasses.replace(gpu, simulated=what != "sample") for gpu in GPUS]
    world = World(tmp_path, monkeypatch, gpus=gpus)
    world.start("ana", "away" if what == "way in" else "")
    if what == "counters":
        world.counters["ana"] = Vitals()
    if what == "kernels":
        world.kernels["ana"] = None
    world.minutes(60)
    assert world.hub.stopped == []
    assert notices(world.lab, "ana")["notices"] == []
    world.ledger.close()


def test_the_engines_own_count_of_data_proves_work_but_no_idleness(world, caplog):
    world.start("ana")
    world.counters["ana"] = Vitals(0, 0, complete=False)
    world.minutes(60)
    assert world.hub.stopped == []
    assert caplog.text.count("no lab is reclaimed for being idle") == 1


def test_one_lab_that_breaks_everything_concerns_nobody_else(world, caplog):
    world.start("ana")
    world.start("bo")
    real = world.reclaimer._decide

    def broken(lease, signals, watch):
        if lease.holder.user == "ana":
            raise RuntimeError("anything")
        return real(lease, signals, watch)

    world.reclaimer._decide = broken
    world.minutes(27)
    assert world.hub.stopped[0].endswith("/users/bo/server")
    assert "ana could not be looked after; it is left alone" in caplog.text


def test_a_press_of_extend_in_the_middle_of_a_round_wins(world, monkeypatch):
    lease = world.ledger.lease(world.start("ana").id)
    world.minutes(25)
    real = world.reclaimer._decide

    def pressed(*given):
        found = real(*given)
        if found.decision.step is service.Step.STOP:
            extend(world.lab, lease, "ana")
        return found

    monkeypatch.setattr(world.reclaimer, "_decide", pressed)
    world.minutes(5)
    assert world.hub.stopped == []
    assert world.ledger.watches()[lease.id].extensions == 1
    assert ("ana", "lease.extended") in {(event.actor, event.action) for event in world.ledger.events(user="ana")}
    # ... and an extension that comes after the stop was asked for says so.
    monkeypatch.setattr(world.reclaimer, "_decide", real)
    world.minutes(270)
    assert world.hub.stopped
    with pytest.raises(LabError, match="does not run any more"):
        extend(world.lab, lease, "ana")


@pytest.mark.parametrize("status", [None, 500])
def test_a_hub_that_does_not_hear_is_asked_again(world, status):
    world.start("ana")
    world.hub.status = status
    world.minutes(30)
    assert len(world.hub.stopped) > 3
    assert [lease.state for lease in world.ledger.active()] == [LeaseState.BOUND]


def test_a_lab_that_the_hub_does_not_know_is_ended_by_settlement(world):
    world.start("ana")
    world.hub.status = 404
    world.minutes(30)
    assert len(world.hub.stopped) == 1
    assert [lease.state for lease in world.ledger.active()] == [LeaseState.DRAINING]


def test_a_reclaimer_that_was_away_stops_nobody_at_once(world):
    world.start("ana")
    world.minutes(24)
    warned = notices(world.lab, "ana")["notices"][0]
    world.seconds += 7200
    again = world.fresh()
    world.minutes(0.5, again)
    assert world.hub.stopped == []
    later = notices(world.lab, "ana")["notices"][0]
    assert later["stop_at"] > warned["stop_at"]
    world.minutes(3, again)
    assert world.hub.stopped


def test_dry_run_tells_and_stops_nobody_and_still_accounts(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "gpulab.reclaim")
    world = World(tmp_path, monkeypatch, mode="dry-run")
    lease = world.start("ana")
    world.minutes(60)
    assert world.hub.stopped == []
    assert notices(world.lab, "ana")["notices"] == []
    assert "would warn ana" in caplog.text
    assert "would stop ana" in caplog.text
    assert world.ledger.watches()[lease.id].idle_since is not None
    assert not [event for event in world.ledger.events() if event.action in ("lease.notice", "lease.warn")]
    world.ledger.close()


def test_two_labs_use_up_the_hours_of_their_owner_together(world):
    limited = PolicyRules(everyone=Allowance(hours_per_week=4))
    world.reclaimer.lab = dataclasses.replace(world.lab, config=dataclasses.replace(world.lab.config, policy=limited))
    for name in ("ana/one", "ana/two", "bo"):
        world.start(name, container=name)
        world.kernels[name] = Kernels(1, None)
    world.minutes(119)
    warned = {watch.lease for watch in world.ledger.watches().values() if "GPU-hours of the week" in watch.text}
    assert len(warned) == 2
    assert world.hub.stopped == []
    world.minutes(2)
    assert sorted(url.rpartition("/")[2] for url in world.hub.stopped[:2]) == ["one", "two"]
    assert not any("bo" in url for url in world.hub.stopped), "what others may use is their own"


def test_off_is_off(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, mode="off")
    world.start("ana")
    world.minutes(60)
    assert (world.hub.stopped, world.ledger.watches()) == ([], {})
    world.ledger.close()


@pytest.mark.parametrize(
    ("changes", "seconds"), [({}, 30), ({"grace": timedelta(seconds=60)}, 6), ({"notice": timedelta(seconds=1)}, 1)]
)
def test_the_rounds_are_as_close_as_the_rules_need(tmp_path, monkeypatch, changes, seconds):
    world = World(tmp_path, monkeypatch, **changes)
    assert world.reclaimer.period == seconds
    world.ledger.close()


REAL = make_gpu(7)


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        (GpuSample(REAL.uuid, T0, 40, 1000), (40, 1000)),
        (GpuSample(REAL.uuid, T0, 0, None), (0, None)),
        (GpuSample(REAL.uuid, T0, None, 1000), (None, None)),
        (GpuSample(REAL.uuid, after(-90), 0, 0), (None, None)),
        (None, (None, None)),
    ],
)
def test_the_use_of_a_gpu_is_known_only_where_it_was_measured_lately(sample, found):
    samples = {REAL.uuid: sample} if sample else {}
    assert gpu_use(make_lease(gpus=(REAL.uuid,)), {REAL.uuid: REAL}, samples, T0, {}) == found
    both = make_lease(gpus=(REAL.uuid, GPUS[0].uuid))
    assert gpu_use(both, {gpu.uuid: gpu for gpu in (REAL, *GPUS)}, samples, T0, {}) == found


MINE, OTHERS = "a" * 64, "b" * 64
HOMES = {1: MINE, 2: MINE, 3: OTHERS, 4: ""}


@pytest.mark.parametrize("part", [f"{REAL.uuid}#0", "MIG-" + REAL.uuid[4:]])
@pytest.mark.parametrize(
    ("percent", "processes", "found"),
    [
        (90, (), (0, 0)),
        (90, ((3, 7000), (4, None), (5, 9000)), (0, 0)),
        (90, ((1, 100), (2, 200), (3, 7000)), (90, 300)),
        (90, ((1, None), (3, 7000)), (90, None)),
        (None, (), (0, 0)),
        (None, ((3, 7000),), (0, 0)),
        (None, ((1, 100),), (None, None)),
        # Where the driver tells what each process uses, the device does not matter.
        (90, ((1, 100, 0), (3, 7000, 90)), (0, 100)),
        (90, ((1, 100, 30), (2, 200, 25), (3, 7000, 35)), (55, 300)),
        (None, ((1, 100, 7),), (7, 100)),
        (90, ((1, 100, 0), (2, 200, None)), (90, 300)),
        (90, None, (None, None)),
        (None, None, (None, None)),
    ],
)
def test_a_seat_and_a_mig_instance_are_used_by_the_labs_own_processes_only(part, percent, processes, found):
    lease = dataclasses.replace(make_lease(gpus=(part,)), container=MINE)
    listed = None if processes is None else tuple(GpuProcess(*one) for one in processes)
    device = part.partition("#")[0]
    samples = {device: GpuSample(device, T0, percent, 20_000, processes=listed)}
    assert gpu_use(lease, {}, samples, T0, HOMES) == found
    assert gpu_use(lease, {}, samples, after(90), HOMES) == (None, None)


@pytest.mark.parametrize(
    "running",
    [
        pytest.param((GpuProcess(3, 7000),), id="without a process"),
        pytest.param((GpuProcess(1, 500, 0), GpuProcess(3, 7000, 88)), id="with a kernel left open"),
    ],
)
def test_an_idle_seat_beside_a_busy_one_is_reclaimed_and_its_neighbour_is_not(tmp_path, monkeypatch, running):
    gpus = [dataclasses.replace(GPUS[0], simulated=False)]
    world = World(tmp_path, monkeypatch, gpus=gpus)
    world.lab = dataclasses.replace(world.lab, config=world.shared)
    world.reclaimer = world.fresh()
    world.start("ana", MINE, world.lab.units())
    world.start("bo", OTHERS, world.lab.units())
    monkeypatch.setattr(service, "container_of", lambda pid: HOMES.get(pid, ""))
    for _ in range(53):
        world.ledger.note_samples([GpuSample(gpus[0].uuid, after(world.seconds), 90, 7000, processes=running)])
        world.minutes(0.5)
    assert set(world.hub.stopped) == {"http://hub/api/users/ana/server"}
    world.ledger.close()


def test_an_idle_mig_instance_is_reclaimed_and_one_with_a_process_is_not(tmp_path, monkeypatch):
    parts = [dataclasses.replace(make_gpu(i), uuid="MIG-" + make_gpu(i).uuid[4:], parent=REAL.uuid) for i in range(2)]
    world = World(tmp_path, monkeypatch, gpus=parts)
    leases = {who: world.start(who, where, parts, "mig") for who, where in (("ana", MINE), ("bo", OTHERS))}
    monkeypatch.setattr(service, "container_of", lambda pid: HOMES.get(pid, ""))
    for _ in range(53):
        running = {leases["ana"].gpus[0]: (), leases["bo"].gpus[0]: (GpuProcess(3, 7000),)}
        world.ledger.note_samples(
            [GpuSample(uuid, after(world.seconds), None, 7000, processes=found) for uuid, found in running.items()]
        )
        world.minutes(0.5)
    assert set(world.hub.stopped) == {"http://hub/api/users/ana/server"}
    world.ledger.close()


def test_lost_gpus_are_told_until_they_are_back(tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "PROBE_SECONDS", 30.0)
    world = World(tmp_path, monkeypatch, gpus=[dataclasses.replace(gpu, simulated=False) for gpu in GPUS])
    world.gone.update(ana="nvidia0 cannot be opened", bo=None)
    ana = world.start("ana")
    bo, _ = world.start("bo"), world.start("cem")
    world.minutes(1)
    (notice,) = notices(world.lab, "ana")["notices"]
    assert (notice["cause"], notice["restart"]) == ("lost", True)
    assert notice["text"].startswith("Your lab has lost its GPUs (nvidia0 cannot be opened).")
    assert notices(world.lab, "bo")["notices"] == notices(world.lab, "cem")["notices"] == []
    maintenance = Maintenance(world.lab.clock(), "New driver.", "root")
    world.ledger.set_maintenance(maintenance, "root", world.lab.clock())
    with pytest.raises(MaintenanceError, match="New driver"):
        set_aside(world.lab, ana, (), "ana")
    world.ledger.set_maintenance(None, "root", world.lab.clock())
    set_aside(world.lab, ana, (), "ana")
    with pytest.raises(UnavailableError, match="This lab has its GPUs"):
        set_aside(world.lab, bo, (), "bo")
    world.gone["ana"] = None
    world.minutes(1)
    assert [trouble.lease for trouble in world.ledger.troubles()] == [ana.id], "cannot tell is not back"
    world.gone["ana"] = ""
    world.minutes(1)
    assert world.ledger.troubles() == ()
    world.ledger.close()


def test_a_lab_that_never_answers_keeps_nobody_else_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "PROBE_SECONDS", 30.0)
    monkeypatch.setattr(troubles, "PATIENCE", 0.2)
    world = World(tmp_path, monkeypatch, gpus=[dataclasses.replace(gpu, simulated=False) for gpu in GPUS])
    silent, asked = threading.Event(), []

    def lost(container: str) -> str | None:
        asked.append(container)
        if container == "ana":
            silent.wait(60)
            return None
        return "nvidia0 cannot be opened"

    monkeypatch.setattr(world, "lost", lost)
    for who in ("ana", "bo"):
        world.start(who)
    world.minutes(2)
    (notice,) = notices(world.lab, "bo")["notices"]
    assert notice["cause"] == "lost"
    assert notices(world.lab, "ana")["notices"] == []
    assert (asked.count("ana"), asked.count("bo")) == (1, 4)
    silent.set()
    world.ledger.close()


def test_a_seat_that_takes_too_much_is_warned_and_stopped_and_its_neighbour_is_not(tmp_path, monkeypatch):
    gpus = [dataclasses.replace(GPUS[0], simulated=False)]
    world = World(tmp_path, monkeypatch, gpus=gpus)
    world.lab = dataclasses.replace(world.lab, config=world.shared)
    world.reclaimer = world.fresh()
    units = world.lab.units()
    world.start("ana", "a" * 64, units)
    world.start("bo", "b" * 64, units)
    owners = {1: "a" * 64, 2: "a" * 64, 3: "b" * 64, 4: "x" * 64}
    monkeypatch.setattr(troubles, "container_of", lambda pid: owners.get(pid, ""))
    processes = tuple(GpuProcess(pid, 7000) for pid in owners)
    for _ in range(14):
        sample = GpuSample(gpus[0].uuid, after(world.seconds), 90, 23_000, processes=processes)
        world.ledger.note_samples([sample])
        world.minutes(0.5)
        if world.hub.stopped:
            break
        (notice,) = notices(world.lab, "ana")["notices"]
        assert (notice["cause"], notice["warning"], notice["extend_seconds"]) == ("seat", True, 0)
    assert world.hub.stopped == ["http://hub/api/users/ana/server"]
    assert world.seconds == 30 + 300
    assert notices(world.lab, "bo")["notices"] == []
    (trouble,) = world.ledger.troubles()
    assert trouble.kind is TroubleKind.SEAT
    world.ledger.close()

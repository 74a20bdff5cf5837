"""The rounds over the GPUs: samples are kept, sick GPUs go out and come back, and the picture of the day is drawn."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from spawner import labfile
from spawner.engine import Engine
from spawner.errors import InventoryError
from spawner.inventory import StaticInventory
from spawner.ledger import Ledger
from spawner.model import LeaseState
from spawner.records import Fault, GpuMark, GpuSample, MarkKind, Watch
from spawner.runtime import Lab
from spawner.services.sampling import Sampler, tally
from tests.unit.values import SHIPPED, T0, after, make_gpu, make_lease

GPUS = [make_gpu(i) for i in range(3)]


class Bench(StaticInventory):
    """An inventory that a test tells what to answer."""

    def __init__(self) -> None:
        super().__init__(GPUS)
        self.faults: dict[str, tuple[Fault, ...]] = {}
        self.problem = ""

    def samples(self, at: datetime, known=()) -> tuple[GpuSample, ...]:
        if self.problem:
            raise InventoryError(self.problem)
        return tuple(GpuSample(gpu.uuid, at, 50, 1000, 40, faults=self.faults.get(gpu.uuid, ())) for gpu in GPUS)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return after(self.seconds)


@pytest.fixture
def world(tmp_path: Path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    clock, bench = Clock(), Bench()
    lab = Lab(labfile.load(SHIPPED), ledger, Engine(), bench, clock=clock.now)
    yield Sampler(lab, lambda: clock.seconds), bench, clock, ledger
    ledger.close()


def test_samples_are_kept_and_the_picture_is_drawn_once_a_minute(world):
    sampler, _, clock, ledger = world
    for clock.seconds in range(0, 125, 5):
        sampler.work()
    assert ledger.samples()[GPUS[0].uuid].at == after(120)
    drawn = ledger.tallies(T0)
    assert [point.at for point in drawn] == [T0, after(60), after(120)]
    assert (drawn[0].total, drawn[0].held, drawn[0].out, drawn[0].busy) == (3, 0, 0, 50)


def test_what_the_driver_reports_takes_a_gpu_out_and_a_passed_check_brings_it_back(world):
    sampler, _, clock, ledger = world
    sampler.work()
    clock.seconds = 5
    sampler.heard([(GPUS[0].uuid, Fault("xid", "The driver reported Xid 94.", 94)), (GPUS[1].uuid, Fault("xid", "", 79))])
    sampler.work()
    assert {mark.subject: mark.comes_back for mark in ledger.marks()} == {GPUS[0].uuid: True, GPUS[1].uuid: False}
    for clock.seconds in range(10, 200, 5):
        sampler.work()
    assert [mark.subject for mark in ledger.marks()] == [GPUS[1].uuid], "79 needs an admin"
    assert [event.action for event in ledger.events()] == ["gpu.sick", "gpu.sick", "gpu.returned"]


def test_a_sick_gpu_that_an_admin_puts_back_stays_until_something_new_is_found(world):
    sampler, bench, clock, ledger = world
    bench.faults[GPUS[0].uuid] = (Fault("ecc", "It had an uncorrected memory error.", 1),)
    sampler.work()
    assert [mark.subject for mark in ledger.marks()] == [GPUS[0].uuid]
    ledger.unmark(GPUS[0].uuid, "root", clock.now())
    clock.seconds = 5
    sampler.work()
    assert ledger.marks() == ()
    bench.faults[GPUS[0].uuid] = (Fault("ecc", "It had 2 uncorrected memory errors.", 2),)
    clock.seconds = 10
    sampler.work()
    assert [mark.subject for mark in ledger.marks()] == [GPUS[0].uuid]


def test_a_driver_that_does_not_answer_takes_nothing_out_and_loses_no_report(world):
    sampler, bench, clock, ledger = world
    sampler.work()
    sampler.heard([(GPUS[0].uuid, Fault("xid", "", 79))])
    bench.problem = "The driver does not answer."
    clock.seconds = 5
    sampler.work()
    assert ledger.marks() == ()
    assert ledger.samples()[GPUS[0].uuid].at == T0, "an old sample shows its age"
    bench.problem = ""
    clock.seconds = 10
    sampler.work()
    assert [mark.subject for mark in ledger.marks()] == [GPUS[0].uuid]


def test_a_ledger_that_does_not_answer_loses_no_report(world, monkeypatch):
    sampler, _, _, ledger = world
    sampler.heard([(GPUS[0].uuid, Fault("xid", "", 79))])
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "mark", lambda mark: (_ for _ in ()).throw(InventoryError("stand-in for any error")))
        sampler.work()
    sampler.work()
    assert [mark.subject for mark in ledger.marks()] == [GPUS[0].uuid]


def test_the_picture_counts_each_device_once():
    seats = [dataclasses.replace(GPUS[0], uuid=f"{GPUS[0].uuid}#{n}", seats=2) for n in range(2)]
    ids = [f"{n:032x}" for n in range(4)]
    leases = [
        make_lease("ana", (seats[0].uuid,), id=ids[0]),
        make_lease("bo", (seats[1].uuid,), id=ids[1]),
        make_lease("cem", (GPUS[1].uuid,), id=ids[2]),
        make_lease("dan", (GPUS[2].uuid,), id=ids[3], state=LeaseState.CLAIMED),
    ]
    watches = {ids[0]: Watch(ids[0], idle_since=T0), ids[2]: Watch(ids[2], idle_since=T0)}
    units = [*seats, *GPUS[1:]]
    samples = [GpuSample(GPUS[1].uuid, T0, 80), GpuSample(GPUS[2].uuid, T0)]
    found = tally(units, samples, leases, [], watches, 3, T0)
    assert (found.total, found.held, found.idle, found.out, found.waiting, found.busy) == (3, 2, 1, 0, 3, 80)
    drained = [GpuMark(GPUS[1].uuid, MarkKind.DRAINED, "", "root", T0)]
    found = tally(units, samples, leases, drained, watches, 0, T0 + timedelta(0))
    assert (found.total, found.held, found.idle, found.out) == (3, 1, 0, 1)

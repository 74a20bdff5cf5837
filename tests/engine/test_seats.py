"""The watchdog of shared GPUs, from what NVIDIA's driver says of processes that run in real containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from spawner.grants import SharingRule
from spawner.inventory import StaticInventory
from spawner.ledger import Ledger
from spawner.model import Gpu, GpuRequest, Holder, Lease
from spawner.records import GpuSample, Grant
from spawner.runtime import Lab, utc_now
from spawner.services.troubles import Troubles
from spawner.vitals import VitalsReader, container_of
from tests.engine.lab import EngineLab, Inside, eventually
from tests.support.modern_engine import GPUS
from tests.support.nvml import Card, NvmlStandIn

A = GPUS[0]
GRACE = timedelta(seconds=1)
RULE = SharingRule(frozenset({A.uuid}), frozenset(), 2, GRACE)


class Seats:
    """Two labs on the two seats of one GPU: real containers and ledger, and a driver that is told who uses how much."""

    def __init__(self, cdi: EngineLab, folder: Path) -> None:
        config = dataclasses.replace(cdi.config, gpus=dataclasses.replace(cdi.config.gpus, sharing=(RULE,)))
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.lab = Lab(config, self.ledger, cdi.engine, StaticInventory((A,)))
        self.units = {unit.uuid: unit for unit in self.lab.units()}
        self.standin = NvmlStandIn.build(folder)
        self.containers = [cdi.start(A), cdi.start(A, user="bo")]
        self.leases = [self._sit(number, inside) for number, inside in enumerate(self.containers)]
        self.stopped: list[tuple[Holder, str]] = []
        vitals = VitalsReader(cdi.engine, cdi.name)
        self.troubles = Troubles(self.lab, vitals, lambda lease, why: self.stopped.append((lease.holder, why)))

    def _sit(self, number: int, inside: Inside) -> Lease:
        lease = self.ledger.acquire(
            GpuRequest("seat", 1, sharing="shared"), Holder(f"p{number}"), tuple(self.units.values()),
            lease_id=inside.lease.id, now=utc_now(), admit=lambda asked, holder, standing: Grant(asked), choose=self.lab.place,
        )  # fmt: skip
        assert isinstance(lease, Lease)
        self.ledger.answered(lease.id, inside.id)
        self.ledger.bind(lease.id, utc_now())
        return lease

    def use(self, *gib: int) -> None:
        """What each lab's first process holds on the GPU; a process of the host, too, has some."""
        told = zip(map(first_process, self.containers), gib, strict=True)
        processes = ((1, 1 << 30), *((pid, size << 30) for pid, size in told))
        self.standin.cards = (Card(A.uuid, memory=24 << 30, percent=90, used=sum(gib) + 1 << 30, processes=processes),)

    def look(self) -> list[str]:
        """One round of the watchdog: what it has to tell the two labs."""
        answer = self.standin.ask({"node": A.node, "at": utc_now().isoformat()})
        samples: dict[str, GpuSample] = {sample.uuid: sample for sample in answer.samples}
        units: dict[str, Gpu] = self.units
        active = {lease.id: lease for lease in self.ledger.active()}
        self.troubles.work([active[lease.id] for lease in self.leases], units, samples)
        told = {trouble.lease: trouble.text for trouble in self.ledger.troubles()}
        return [told.get(lease.id, "") for lease in self.leases]


def first_process(inside: Inside) -> int:
    """Its id on the host, which is what the driver tells; the engine, in a namespace of its own, knows it by another."""
    return min(int(path.name) for path in Path("/proc").glob("[0-9]*") if container_of(int(path.name)) == inside.id)


@pytest.fixture
def seats(cdi_lab: EngineLab, tmp_path: Path) -> Iterator[Seats]:
    made = Seats(cdi_lab, tmp_path)
    yield made
    made.ledger.close()


def test_two_labs_sit_on_one_gpu(seats: Seats) -> None:
    assert sorted(unit for lease in seats.leases for unit in lease.gpus) == [f"{A.uuid}#0", f"{A.uuid}#1"]
    assert [inside.devices() for inside in seats.containers] == [{"nvidia0"}, {"nvidia0"}]


def test_who_uses_more_than_the_seat_is_warned_and_let_be_once_it_is_freed(seats: Seats) -> None:
    seats.use(13, 3)
    greedy, modest = seats.look()
    assert "uses 13.0 GiB of a shared GPU" in greedy
    assert "its seat is 12.0 GiB" in greedy
    assert modest == ""
    seats.use(12, 12)
    assert seats.look() == ["", ""]
    assert not seats.stopped


def test_who_goes_on_is_stopped_after_the_grace_and_the_neighbour_is_not(seats: Seats) -> None:
    seats.use(3, 20)
    assert [bool(text) for text in seats.look()] == [False, True]
    assert not seats.stopped
    eventually(seats.look, lambda _: bool(seats.stopped))
    (stopped,) = {holder for holder, _ in seats.stopped}
    assert stopped == Holder("p1")
    assert "it went on using more than its seat" in seats.stopped[0][1]

"""The ledger on a PostgreSQL server does what it does in SQLite: its unit tests once more, and the rest of its tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from spawner.ledger import Ledger
from spawner.model import Holder
from spawner.records import Fault, GpuProcess, GpuSample, Maintenance, Tally, Watch
from tests.unit import test_ledger, test_tickets
from tests.unit.values import T0, after


@pytest.fixture
def ledger(empty_postgres: str) -> Iterator[Ledger]:
    opened = Ledger.open(empty_postgres)
    yield opened
    opened.close()


def _shared() -> Iterator[Any]:
    for module in (test_tickets, test_ledger):
        for name, function in vars(module).items():
            if name.startswith("test_") and list(inspect.signature(function).parameters) == ["ledger"]:
                yield pytest.param(function, id=name.removeprefix("test_"))


@pytest.mark.parametrize("check", list(_shared()))
def test_the_same_holds_on_postgresql(ledger: Ledger, check: Any):
    check(ledger)


def test_everything_that_is_kept_comes_back_as_it_was(ledger: Ledger, empty_postgres: str):
    sample = GpuSample("GPU-1", T0, 5, 100, 40, (GpuProcess(7, None),), (Fault("xid", "fell off the bus", 79),))
    watch = Watch("a" * 32, T0, T0, None, after(5), None, 2, "idle", "It is idle.")
    tally = Tally(T0, 8, 4, 1, 0, 3, 12.5)
    maintenance = Maintenance(T0, "disks", "admin", after(60))
    for _ in range(2):
        ledger.note_samples([sample])
        ledger.watch(watch)
        ledger.tally(tally)
        ledger.set_maintenance(maintenance, "admin", T0)
    lease = test_tickets.ask(ledger, "ana", 2)
    ledger.bind(lease.id, after(1))
    ledger.set_end(lease.id, after(600), "ana", after(1))
    ledger.add_idle([(lease.id, 12.0)])
    ledger.note_ending(lease.id, "It was idle.")
    ledger.close()
    again = Ledger.open(empty_postgres)
    assert again.samples() == {"GPU-1": sample}
    assert again.watches() == {watch.lease: watch}
    assert again.tallies(T0 - timedelta(hours=1)) == (tally,)
    assert again.maintenance() == maintenance
    assert again.active()[0].ends == after(600)
    assert again.endings(Holder("ana"))[0][2] == "It was idle."
    again.drain(lease.id, after(2))
    again.release(lease.id, after(100), "gone")
    assert again.held_seconds() == {"p": (99.0,)}
    assert again.standing(Holder("ana"), after(200)).gpu_seconds == {"p": 200.0}
    assert again.version() == len(again.events())
    again.close()

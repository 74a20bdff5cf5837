"""Many processes on one ledger, in SQLite and on a PostgreSQL server: the same promises, whoever is killed in the middle."""

from __future__ import annotations

import json
import multiprocessing
from datetime import timedelta
from functools import partial

import psycopg
import pytest

from spawner.errors import LedgerError
from spawner.ledger import Ledger
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from tests.machine.conftest import SEED
from tests.machine.workers import GPUS, admit, hang, live, new_id, turns, watch
from tests.unit.values import T0

CONTEXT = multiprocessing.get_context("spawn")
WORKERS, ROUNDS = 6, 60


def test_many_processes_keep_every_promise(url: str):
    Ledger.open(url).close()
    results, stopped = CONTEXT.Queue(), CONTEXT.Event()
    print(f"seed of the first process: {SEED}")
    watcher = CONTEXT.Process(target=watch, args=(url, stopped, results))
    workers = [CONTEXT.Process(target=live, args=(url, SEED + n, ROUNDS, results)) for n in range(WORKERS)]
    for process in (watcher, *workers):
        process.start()
    told = [results.get(timeout=300) for _ in workers]
    stopped.set()
    told.append(results.get(timeout=60))
    for process in (watcher, *workers):
        process.join(60)
        assert process.exitcode == 0
    assert [words for _, words in told if words] == []
    _the_journal_tells_the_same(url)
    _nobody_waits_for_ever_and_no_gpu_is_lost(url)


def _nobody_waits_for_ever_and_no_gpu_is_lost(url: str) -> None:
    """Everybody who still waits gets their turn and ends; then every GPU can be leased at once."""
    ledger = Ledger.open(url, busy_seconds=60)
    now = T0 + timedelta(days=2)
    for _ in range(4 * len(ledger.tickets()) + 4):
        now += timedelta(minutes=10)
        for lease in ledger.active():
            if lease.state is not LeaseState.CLAIMED:
                ledger.drain(lease.id, now)
                ledger.release(lease.id, now, "done")
        if not ledger.anybody_waits():
            break
        for ticket in ledger.advance(GPUS, now, partial(turns, now), new_id, timedelta(minutes=5)):
            made = ledger.acquire(
                ticket.request, ticket.holder, GPUS, lease_id=new_id(), now=now, admit=admit, choose=packed
            )  # fmt: skip
            assert isinstance(made, Lease), "a claim could not be used"
            ledger.answered(made.id, "container")
            ledger.bind(made.id, now)
    assert ledger.tickets() == (), "tickets that never had their turn"
    assert ledger.active() == (), "leases that nobody ends"
    for number, gpu in enumerate(GPUS):
        made = ledger.acquire(
            GpuRequest("p", 1, wait=False), Holder(f"last{number}"), GPUS, lease_id=new_id(), now=now, admit=admit, choose=packed
        )  # fmt: skip
        assert isinstance(made, Lease), f"{gpu.uuid} is lost"
    assert {uuid for lease in ledger.active() for uuid in lease.gpus} == {gpu.uuid for gpu in GPUS}
    ledger.close()


def _the_journal_tells_the_same(url: str) -> None:
    ledger = Ledger.open(url)
    states: dict[str, str] = {}
    events = ledger.events(limit=100_000)
    assert [event.number for event in events] == sorted({event.number for event in events})
    for event in events:
        if event.action.startswith("lease.") or event.action == "ticket.claimed":
            states[event.subject] = event.action
    assert len(states) > WORKERS
    open_ends = {lease_id for lease_id, action in states.items() if action != "lease.released"}
    assert open_ends == {lease.id for lease in ledger.active()}
    assert json.dumps([dict(event.detail) for event in events])
    ledger.close()


@pytest.mark.parametrize("moment", ["deciding", "committing"])
def test_a_writer_killed_in_mid_transaction_leaves_nothing_and_holds_up_nobody(url: str, moment: str):
    ledger = Ledger.open(url)
    there = CONTEXT.Event()
    victim = CONTEXT.Process(target=hang, args=(url, moment, there))
    victim.start()
    assert there.wait(60)
    assert ledger.active() == ()  # readers do not wait for it
    victim.kill()
    victim.join(30)
    made = ledger.acquire(
        GpuRequest("p", 3), Holder("ana"), GPUS, lease_id=new_id(), now=T0, admit=admit, choose=packed
    )  # fmt: skip
    assert isinstance(made, Lease)
    assert [lease.holder.user for lease in ledger.active()] == ["ana"]
    assert {event.user for event in ledger.events()} == {"ana"}
    ledger.close()


def test_a_writer_that_hangs_is_told_in_words(url: str):
    Ledger.open(url).close()
    there = CONTEXT.Event()
    victim = CONTEXT.Process(target=hang, args=(url, "deciding", there))
    victim.start()
    try:
        assert there.wait(60)
        with pytest.raises(LedgerError, match="cannot be used"):
            Ledger.open(url, busy_seconds=0.2)
    finally:
        victim.kill()
        victim.join(30)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'nobody'",
        "DELETE FROM events",
        "TRUNCATE events",
        "INSERT INTO events (number, at) VALUES (1, now()) ON CONFLICT (number) DO UPDATE SET actor = 'nobody'",
    ],
)
def test_the_journal_is_only_added_to_on_postgresql(empty_postgres: str, statement: str):
    ledger = Ledger.open(empty_postgres)
    ledger.acquire(GpuRequest("p", 1), Holder("ana"), GPUS, lease_id=new_id(), now=T0, admit=admit, choose=packed)
    host = empty_postgres.partition("host=")[2]
    with (
        psycopg.connect(host=host, user="lab", dbname="postgres") as connection,
        pytest.raises(psycopg.errors.RaiseException, match="only added to"),
    ):
        connection.execute(statement)
    assert [event.actor for event in ledger.events()] == ["ana"]
    ledger.close()

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from spawner.errors import DeniedError, LedgerError, NoGpuFree
from spawner.ledger import SCHEMA_VERSION, Ledger
from spawner.model import GpuRequest, Holder, LeaseState
from spawner.placement import packed
from spawner.records import Grant
from tests.unit.values import T0, after, make_gpu

GPUS = [make_gpu(i) for i in range(4)]


def open_ledger(folder: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")


@pytest.fixture
def ledger(tmp_path: Path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def admit_all(request, holder, standing) -> Grant:
    return Grant(request)


def acquire(ledger: Ledger, lease_id: str, number: int = 1, holder: str = "ana", admit=admit_all):
    return ledger.acquire(
        GpuRequest("p", number, wait=False), Holder(holder), GPUS, lease_id=lease_id, now=T0, admit=admit, choose=packed
    )


def test_a_lease_survives_reopening_with_all_its_facts(ledger: Ledger, tmp_path: Path):
    lease = acquire(ledger, "a" * 32, 2)
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.active() == (lease,)
    assert again.lease("a" * 32) == lease
    again.close()


def test_two_leases_never_share_a_gpu(ledger: Ledger):
    first, second = acquire(ledger, "a", 2), acquire(ledger, "b", 2, "bo")
    assert not set(first.gpus) & set(second.gpus)
    with pytest.raises(NoGpuFree):
        acquire(ledger, "c")


def test_the_database_itself_refuses_a_second_holder(ledger: Ledger):
    acquire(ledger, "a")
    with pytest.raises(LedgerError, match="Another lab took that GPU"):
        ledger.acquire(
            GpuRequest("p", 1), Holder("bo"), GPUS, lease_id="b", now=T0, admit=admit_all,
            choose=lambda *_: (GPUS[0].uuid,),
        )  # fmt: skip
    assert [lease.id for lease in ledger.active()] == ["a"]


def test_a_refused_request_leaves_nothing(ledger: Ledger):
    def deny(request, holder, active):
        raise DeniedError("no")

    with pytest.raises(DeniedError):
        acquire(ledger, "a", admit=deny)
    assert ledger.active() == ()
    assert acquire(ledger, "b").gpus == (GPUS[0].uuid,)


def test_the_way_of_a_lease(ledger: Ledger):
    acquire(ledger, "a")
    assert ledger.active()[0].in_flight
    ledger.answered("a", "container-1")
    ledger.bind("a")
    assert (ledger.active()[0].state, ledger.active()[0].container) == (LeaseState.BOUND, "container-1")
    ledger.drain("a", after(2))
    ledger.note_absent("a", after(3))
    assert (ledger.active()[0].drained, ledger.active()[0].absent_since) == (after(2), after(3))
    ledger.release("a", after(4), "gone")
    assert ledger.active() == ()
    assert acquire(ledger, "b").gpus == (GPUS[0].uuid,)


def test_ending_twice_is_a_noop(ledger: Ledger):
    acquire(ledger, "a")
    for _ in range(2):
        ledger.drain("a", after(2))
    for _ in range(2):
        ledger.release("a", T0, "gone")
    acquire(ledger, "b", 4)
    ledger.release("a", T0, "again")
    assert len(ledger.active()[0].gpus) == 4


def test_a_start_that_was_given_up_cannot_bind(ledger: Ledger):
    acquire(ledger, "a")
    ledger.drain("a", after(2))
    with pytest.raises(LedgerError, match="given up"):
        ledger.bind("a")
    assert ledger.active()[0].state is LeaseState.DRAINING


def test_released_is_said_of_known_leases_only(ledger: Ledger):
    acquire(ledger, "a")
    acquire(ledger, "b")
    ledger.release("b", T0, "gone")
    assert ledger.released(["a", "b", "never-seen"]) == {"b"}


def test_reading_does_not_wait_for_a_writer(ledger: Ledger, tmp_path: Path):
    acquire(ledger, "a")
    with sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert [lease.id for lease in ledger.active()] == ["a"]
        writer.execute("ROLLBACK")
    writer.close()


def test_only_the_holders_leases(ledger: Ledger):
    acquire(ledger, "a")
    acquire(ledger, "b", holder="bo")
    assert [lease.id for lease in ledger.active_of(Holder("bo"))] == ["b"]


def test_a_newer_schema_is_refused(ledger: Ledger, tmp_path: Path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        raw.execute("update meta set schema_version = ?", (SCHEMA_VERSION + 1,))
    raw.close()
    with pytest.raises(LedgerError, match="Run the newer version"):
        open_ledger(tmp_path)


def test_an_unusable_database_is_told_in_words(tmp_path: Path):
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerError, match="cannot be used"):
        open_ledger(tmp_path)


def test_threads_share_the_gpus_without_a_double(ledger: Ledger):
    granted: list[tuple[str, ...]] = []
    refused: list[Exception] = []
    gate = threading.Barrier(8)

    def one(number: int) -> None:
        gate.wait()
        try:
            granted.append(acquire(ledger, f"{number:032d}", 1, f"user{number}").gpus)
        except NoGpuFree as error:
            refused.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(granted) == sorted((gpu.uuid,) for gpu in GPUS)
    assert len(refused) == 4


def take_and_give_back(url: str, name: str, rounds: int, results) -> None:
    ledger = Ledger.open(url, busy_seconds=60)
    for number in range(rounds):
        lease_id = f"{name}-{number}"
        try:
            acquire(ledger, lease_id, 1 + number % 2, name)
        except NoGpuFree:
            continue
        held = [uuid for lease in ledger.active() for uuid in lease.gpus]
        results.put(len(held) - len(set(held)))
        ledger.release(lease_id, T0, "done")
    results.put(None)


def test_processes_share_one_ledger(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    Ledger.open(url).close()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=take_and_give_back, args=(url, f"worker{n}", 15, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    finished, doubles = 0, []
    while finished < len(workers):
        item = results.get(timeout=120)
        if item is None:
            finished += 1
        else:
            doubles.append(item)
    for worker in workers:
        worker.join(30)
    assert doubles
    assert set(doubles) == {0}
    left = Ledger.open(url)
    assert left.active() == ()
    left.close()


def test_schema_has_the_guarding_index(ledger: Ledger, tmp_path: Path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}", poolclass=sa.NullPool)
    indexes = sa.inspect(engine).get_indexes("lease_gpus")
    engine.dispose()
    assert [i["unique"] for i in indexes if i["name"] == "lease_gpus_one_holder"] == [1]


_NOBODY = "INTO events (number, at, actor) VALUES"
REWRITES = (
    "UPDATE events SET actor = 'nobody'",
    "DELETE FROM events",
    f"INSERT OR REPLACE {_NOBODY} (1, '2026-01-05 08:00:00.000000', 'nobody')",
    f"REPLACE {_NOBODY} (1, '2026-01-05 08:00:00.000000', 'nobody')",
    f"INSERT {_NOBODY} (1, '2026-01-05 08:00:00.000000', 'nobody') ON CONFLICT DO UPDATE SET actor = 'nobody'",
    "INSERT OR REPLACE INTO events SELECT * FROM events",
    f"INSERT {_NOBODY} (-1, '2026-01-05 08:00:00.000000', 'nobody')",
    f"INSERT {_NOBODY} (0, '2026-01-05 08:00:00.000000', 'nobody')",
)


def test_the_journal_is_only_added_to(ledger: Ledger, tmp_path: Path):
    acquire(ledger, "a")
    raw = sqlite3.connect(tmp_path / "ledger.sqlite")
    for statement in REWRITES:
        with pytest.raises(sqlite3.IntegrityError, match="only added to"):
            raw.execute(statement)
    raw.close()
    acquire(ledger, "b")
    event, after_it = ledger.events()
    assert (event.number, event.action, event.user, event.gpus) == (1, "lease.acquired", "ana", (GPUS[0].uuid,))
    assert after_it.number == 2


def test_the_journal_of_an_older_ledger_is_only_added_to_from_now_on(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    acquire(ledger, "a")
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.sqlite")
    raw.executescript("DROP TRIGGER events_insert; DROP TRIGGER events_inserted; UPDATE meta SET schema_version = 3")
    ledger = open_ledger(tmp_path)
    for statement in REWRITES:
        with pytest.raises(sqlite3.IntegrityError, match="only added to"):
            raw.execute(statement)
    raw.close()
    acquire(ledger, "b")
    assert [(event.number, event.user) for event in ledger.events()] == [(1, "ana"), (2, "ana")]
    ledger.close()


def test_a_ledger_of_the_first_schema_is_brought_up_to_date(tmp_path: Path):
    raw = sqlite3.connect(tmp_path / "ledger.sqlite")
    raw.executescript(
        """
        CREATE TABLE meta (schema_version INTEGER NOT NULL);
        INSERT INTO meta VALUES (1);
        CREATE TABLE leases (id VARCHAR(32) NOT NULL PRIMARY KEY, user VARCHAR(255) NOT NULL, server VARCHAR(255) NOT NULL,
            profile VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, container VARCHAR(128) NOT NULL, in_flight BOOLEAN NOT NULL,
            created DATETIME NOT NULL, drained DATETIME, absent_since DATETIME, released DATETIME,
            release_reason VARCHAR(200) NOT NULL);
        CREATE TABLE lease_gpus (lease_id VARCHAR(32) NOT NULL REFERENCES leases (id), uuid VARCHAR(64) NOT NULL,
            position INTEGER NOT NULL, active BOOLEAN NOT NULL, PRIMARY KEY (lease_id, uuid));
        CREATE UNIQUE INDEX lease_gpus_one_holder ON lease_gpus (uuid) WHERE active IS 1;
        INSERT INTO leases VALUES
            ('old', 'ana', '', 'p', 'bound', 'c1', 0, '2026-01-05 08:00:00.000000', NULL, NULL, NULL, '');
        """
    )
    raw.execute("INSERT INTO lease_gpus VALUES ('old', ?, 0, 1)", (GPUS[0].uuid,))
    raw.commit()
    raw.close()
    ledger = open_ledger(tmp_path)
    (lease,) = ledger.active()
    assert (lease.id, lease.gpus, lease.state, lease.ends) == ("old", (GPUS[0].uuid,), LeaseState.BOUND, None)
    assert lease.bound == lease.created, "a lab that was up keeps its time to save"
    assert acquire(ledger, "new").gpus == (GPUS[1].uuid,)
    ledger.close()
    open_ledger(tmp_path).close()


def test_a_ledger_of_the_second_schema_is_brought_up_to_date(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    acquire(ledger, "old")
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.sqlite")
    raw.executescript("ALTER TABLE leases DROP COLUMN starting; UPDATE meta SET schema_version = 2")
    raw.close()
    ledger = open_ledger(tmp_path)
    assert [(lease.id, lease.starting) for lease in ledger.active()] == [("old", None)]
    ledger.close()

"""Looking back into the ledger: the right rows, by an index, and a journal that pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from spawner import usage
from spawner.ledger import REFUSED, Ledger, tables
from spawner.model import GpuRequest, Holder
from spawner.placement import packed
from spawner.records import Event, Grant
from spawner.usage import Span
from tests.unit.values import T0, after, make_gpu

GPUS = [make_gpu(n) for n in range(4)]
HOUR = 3600.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def acquire(ledger: Ledger, number: int, user: str, at: datetime, *uuids: str, groups: tuple[str, ...] = ()) -> str:
    request = GpuRequest("gpu-2" if len(uuids) == 2 else "gpu-1", len(uuids))
    lease_id = f"{number:032x}"
    ledger.acquire(
        request, Holder(user, str(number)), GPUS, lease_id=lease_id, now=at,
        admit=lambda asked, *_: Grant(asked, groups=groups), choose=lambda *_: uuids,
    )  # fmt: skip
    return lease_id


def report(ledger: Ledger, since: float, until: float, by: str = "user", user: str = "") -> usage.Report:
    span = Span(after(since * HOUR), after(until * HOUR), after(until * HOUR))
    return ledger.accounts(span, lambda *found: usage.report(by, span, *found), user)


def test_leases_are_found_with_groups_gpus_and_idle_time(ledger: Ledger):
    first = acquire(ledger, 1, "ana", after(0), GPUS[0].uuid, GPUS[1].uuid, groups=("vision",))
    ledger.add_idle([(first, HOUR)])
    ledger.release(first, after(2 * HOUR), "done")
    acquire(ledger, 2, "bo", after(3 * HOUR), GPUS[0].uuid)
    found = report(ledger, 0, 5)
    assert [(row.key, row.gpu_seconds / HOUR, row.idle_seconds / HOUR) for row in found.rows] == [("ana", 4, 1), ("bo", 2, 0)]
    assert [row.key for row in report(ledger, 0, 5, "group").rows] == ["vision", ""]
    assert [(row.key, row.gpu_seconds / HOUR) for row in report(ledger, 0, 5, "gpu").rows] == [
        (GPUS[0].uuid, 4),
        (GPUS[1].uuid, 2),
    ]
    assert [row.key for row in report(ledger, 2.5, 5).rows] == ["bo"]
    assert [row.key for row in report(ledger, 0, 5, user="bo").rows] == ["bo"]
    assert report(ledger, -9, -1).rows == ()


def test_who_waits_is_counted_and_what_was_refused(ledger: Ledger):
    acquire(ledger, 1, "ana", after(0), *(gpu.uuid for gpu in GPUS))
    ledger.acquire(
        GpuRequest("gpu-1", 1), Holder("bo"), GPUS, lease_id="b" * 32, now=after(HOUR),
        admit=lambda asked, *_: Grant(asked, groups=("night",)), choose=packed,
    )  # fmt: skip
    for _ in range(3):
        ledger.record(
            Event(after(10), "cem", REFUSED, "cem", detail={"reason": "denied", "profile": "gpu-2", "groups": ["night"]})
        )
    found = report(ledger, 0, 2)
    assert (found.total.waiting, dict(found.total.refused)) == ((HOUR,), {"denied": 3})
    assert {row.key: row.refusals for row in report(ledger, 0, 2, "group").rows} == {"night": 3, "": 0}
    assert report(ledger, 1, 2).total.refusals == 0
    assert report(ledger, 0, 2, user="ana").total.refusals == 0


def test_the_journal_pages_and_filters(ledger: Ledger):
    lease = acquire(ledger, 1, "ana", after(0), GPUS[0].uuid)
    acquire(ledger, 2, "bo", after(60), GPUS[1].uuid + "#3")
    ledger.release(lease, after(120), "done")
    everything = ledger.audit()
    assert [event.action for event in everything] == ["lease.released", "lease.acquired", "lease.acquired"]
    first = ledger.audit(limit=2)
    assert [*first, *ledger.audit(limit=2, before=first[-1].number)] == list(everything)
    assert {event.user for event in ledger.audit(person="ana")} == {"ana"}
    assert {event.user for event in ledger.audit(gpu=GPUS[1].uuid)} == {"bo"}, "a seat is found by its device"
    assert ledger.audit(gpu="GPU-%") == ()
    assert [event.at for event in ledger.audit(since=after(60), until=after(120))] == [after(60)]


# --- the cost of a long history


def fill(ledger: Ledger, count: int) -> None:
    """Past leases of an hour each, one after the other, the last of them long ago."""
    rows = [
        {
            "id": f"{number:032x}", "user": f"u{number % 60}", "server": "", "profile": "gpu-1", "state": "released",
            "container": "", "in_flight": False, "gpus": 1,
            "created": tables.naive(T0 - timedelta(days=30, hours=number + 1)),
            "released": tables.naive(T0 - timedelta(days=30, hours=number)), "release_reason": "",
        }
        for number in range(count)
    ]  # fmt: skip
    held = [{"lease_id": row["id"], "uuid": GPUS[0].uuid, "position": 0, "active": False} for row in rows]
    entries = [{"at": row["released"], "action": "lease.released", "user": row["user"], "subject": row["id"]} for row in rows]
    with ledger._transaction() as connection:
        connection.execute(tables.leases.insert(), rows)
        connection.execute(tables.lease_gpus.insert(), held)
        connection.execute(tables.events.insert(), entries)


def steps(ledger: Ledger, question: Callable[[], object]) -> int:
    """How many hundreds of steps SQLite's machine makes for a question."""
    made = 0

    def count() -> int:
        nonlocal made
        made += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, 100)

    sa.event.listen(ledger._engine, "checkout", watch)
    try:
        question()
    finally:
        sa.event.remove(ledger._engine, "checkout", watch)
    return made


@pytest.mark.parametrize("which", ["everybody", "one person", "journal", "metrics"])
def test_a_question_about_a_week_does_not_read_the_past(ledger: Ledger, which: str):
    since = after(-7 * 24 * HOUR)
    questions: dict[str, Callable[[], object]] = {
        "everybody": lambda: report(ledger, -7 * 24, 1),
        "one person": lambda: report(ledger, -7 * 24, 1, user="ana"),
        "journal": lambda: ledger.audit(since=since),
        "metrics": lambda: ledger.reading(max(0, ledger.version() - 5)),
    }
    fill(ledger, 20_000)
    for number in range(2):
        acquire(ledger, 10**9 + number, "ana", after(0), GPUS[number].uuid)
    assert steps(ledger, questions[which]) < 50, "20,000 past leases would cost thousands"

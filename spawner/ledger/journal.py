"""The journal, and what is known about GPUs beside their leases: marks, samples, watches, tallies and maintenance.

Owns reading and writing these. The journal is only ever added to (the database refuses anything else). Never decides: health,
reclaim and admins do, and tell it here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from spawner.ledger import tables
from spawner.ledger.store import Store
from spawner.ledger.tables import aware, events, marks, naive, notes, tallies, watches
from spawner.model import Lease
from spawner.records import Event, Fault, GpuMark, GpuProcess, GpuSample, Maintenance, MarkKind, Tally, Watch

_WRITE = events.insert().inline()
_LATEST = sa.select(sa.func.max(events.c.number))
_MARKS = sa.select(marks).order_by(marks.c.subject, marks.c.kind)
_MAINTENANCE = sa.select(notes.c.at, notes.c.body).where(notes.c.kind == "maintenance")
# Both in one question, for whoever starts a lab waits for the answer.
_OUT_OF_USE = sa.union_all(
    sa.select(marks.c.subject, marks.c.kind, marks.c.reason, marks.c.by, marks.c.since, marks.c.comes_back),
    sa.select(
        notes.c.subject, notes.c.kind, notes.c.body, sa.literal_column("''"), notes.c.at, sa.false()
    ).where(notes.c.kind == "maintenance"),
)  # fmt: skip
KEPT_TALLIES = timedelta(days=2)
MOST_DETAIL = 4000


def write_event(
    connection: sa.Connection,
    at: datetime,
    actor: str,
    action: str,
    *,
    lease: Lease | None = None,
    user: str = "",
    server: str = "",
    subject: str = "",
    gpus: Sequence[str] = (),
    detail: Mapping[str, object] | None = None,
) -> None:
    """Add an entry inside a transaction; what concerns a lease is taken from it."""
    facts = dict(detail or {})
    if lease is not None:
        user, server, subject, gpus = lease.holder.user, lease.holder.server, lease.id, lease.gpus
        facts["profile"] = lease.profile
        if lease.ticket:
            facts["ticket"] = lease.ticket
    connection.execute(
        _WRITE,
        {
            "at": naive(at), "actor": actor[:255], "action": action, "user": user[:255], "server": server[:255],
            "subject": subject[:64], "gpus": json.dumps(list(gpus)), "detail": _bounded(facts),
        },
    )  # fmt: skip


def _bounded(facts: Mapping[str, object]) -> str:
    """Facts as JSON of at most 4,000 characters; an entry that cannot be read back would spoil the whole journal for ever."""
    body = json.dumps(facts, default=str)
    for length in (1000, 100, 10):
        if len(body) <= MOST_DETAIL:
            break
        body = json.dumps({str(key)[:64]: _shortened(value, length) for key, value in list(facts.items())[:20]}, default=str)
    return body


def _shortened(value: object, length: int) -> object:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return value if len(text) <= length else text[:length]


class Journal(Store):
    """The part of the ledger that knows GPUs, admins and the past."""

    def version(self) -> int:
        """A number that grows with every change that the journal tells; cheap to ask."""
        with self._transaction(write=False) as connection:
            return latest(connection)

    def record(self, event: Event) -> None:
        """Add an entry of its own, such as a refused request."""
        with self._transaction() as connection:
            write_event(
                connection, event.at, event.actor, event.action, user=event.user, server=event.server,
                subject=event.subject, gpus=event.gpus, detail=event.detail,
            )  # fmt: skip

    def events(
        self, *, since: datetime | None = None, actions: Iterable[str] = (), user: str = "", after: int = 0, limit: int = 1000
    ) -> tuple[Event, ...]:
        """Entries of the journal, oldest first; the newest `limit` of those that fit."""
        query = sa.select(events).order_by(events.c.number.desc()).limit(limit)
        if since is not None:
            query = query.where(events.c.at >= naive(since))
        if wanted := list(actions):
            query = query.where(events.c.action.in_(wanted))
        if user:
            query = query.where(events.c.user == user)
        if after:
            query = query.where(events.c.number > after)
        with self._transaction(write=False) as connection:
            return tuple(_event(row) for row in reversed(connection.execute(query).all()))

    # --- marks and maintenance ---------------------------------------------

    def mark(self, mark: GpuMark) -> None:
        """Take a GPU or node out of circulation; a mark of the same kind is replaced."""
        with self._transaction() as connection:
            _unmark(connection, mark.subject, (mark.kind,))
            connection.execute(
                marks.insert().values(
                    subject=mark.subject, kind=mark.kind.value, reason=mark.reason[:500], by=mark.by,
                    since=naive(mark.since), comes_back=mark.comes_back,
                )
            )  # fmt: skip
            write_event(
                connection, mark.since, mark.by, f"gpu.{mark.kind.value}", subject=mark.subject, detail={"why": mark.reason}
            )

    def unmark(self, subject: str, by: str, now: datetime, kinds: Iterable[MarkKind] = tuple(MarkKind)) -> bool:
        """Bring a GPU or node back; whether there was a mark."""
        with self._transaction() as connection:
            found = _unmark(connection, subject, kinds)
            if found:
                write_event(connection, now, by, "gpu.returned", subject=subject)
            return found

    def marks(self) -> tuple[GpuMark, ...]:
        """Everything that is out of circulation, by subject."""
        with self._transaction(write=False) as connection:
            return all_marks(connection)

    def set_maintenance(self, maintenance: Maintenance | None, by: str, now: datetime) -> None:
        """Begin maintenance, or end it with None."""
        with self._transaction() as connection:
            connection.execute(notes.delete().where(notes.c.kind == "maintenance"))
            if maintenance:
                body = {"message": maintenance.message[:500], "by": maintenance.by, "deadline": None}
                if maintenance.deadline:
                    body["deadline"] = maintenance.deadline.isoformat()
                _note(connection, "maintenance", "", maintenance.since, body)
            action = "maintenance.begun" if maintenance else "maintenance.ended"
            write_event(connection, now, by, action, detail={"message": maintenance.message} if maintenance else None)

    def maintenance(self) -> Maintenance | None:
        """The maintenance that is on; None where there is none."""
        with self._transaction(write=False) as connection:
            return current_maintenance(connection)

    # --- samples, watches, tallies -----------------------------------------

    def note_samples(self, samples: Iterable[GpuSample]) -> None:
        """Keep the latest sample of each GPU."""
        with self._transaction() as connection:
            for sample in samples:
                connection.execute(notes.delete().where(notes.c.kind == "sample", notes.c.subject == sample.uuid))
                _note(connection, "sample", sample.uuid, sample.at, _sample_body(sample))

    def samples(self) -> dict[str, GpuSample]:
        """The latest sample of each GPU, by UUID."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(notes).where(notes.c.kind == "sample")).all()
        return {row.subject: _sample(row) for row in rows}

    def watch(self, watch: Watch) -> None:
        """Keep what reclaim knows of a lease."""
        with self._transaction() as connection:
            write_watches(connection, [watch])

    def watches(self) -> dict[str, Watch]:
        """What reclaim knows, by lease id."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(watches)).all()
        return {row.lease: watch_of(row) for row in rows}

    def tally(self, tally: Tally) -> None:
        """Add a point to the picture of the last days; old ones go."""
        with self._transaction() as connection:
            connection.execute(tallies.delete().where(tallies.c.at < naive(tally.at - KEPT_TALLIES)))
            connection.execute(tallies.delete().where(tallies.c.at == naive(tally.at)))
            connection.execute(
                tallies.insert().values(
                    at=naive(tally.at), total=tally.total, held=tally.held, idle=tally.idle, out=tally.out,
                    waiting=tally.waiting, busy=tally.busy,
                )
            )  # fmt: skip

    def tallies(self, since: datetime) -> tuple[Tally, ...]:
        """The points since a moment, oldest first."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(tallies).where(tallies.c.at >= naive(since)).order_by(tallies.c.at)).all()
        return tuple(Tally(aware(r.at), r.total, r.held, r.idle, r.out, r.waiting, r.busy) for r in rows)


_WATCH_TIMES = ("idle_since", "noticed", "warned", "stop_at", "safe_until", "seen")


def watch_of(row: Any) -> Watch:
    """A row of `watches` as a value."""
    times = {name: aware(getattr(row, name)) for name in _WATCH_TIMES}
    return Watch(row.lease, extensions=row.extensions, cause=row.cause, text=row.text, **times)


def write_watches(connection: sa.Connection, new: Sequence[Watch]) -> None:
    """Keep watches, inside a transaction."""
    if not new:
        return
    connection.execute(watches.delete().where(watches.c.lease == sa.bindparam("of")), [{"of": watch.lease} for watch in new])
    connection.execute(
        watches.insert(),
        [
            {
                "lease": watch.lease, "extensions": watch.extensions, "cause": watch.cause, "text": watch.text[:1000],
                **{name: _stored(getattr(watch, name)) for name in _WATCH_TIMES},
            }
            for watch in new
        ],
    )  # fmt: skip


def latest(connection: sa.Connection) -> int:
    """Number of the newest entry, inside a transaction; every change of leases, tickets, marks and maintenance makes one."""
    return int(connection.execute(_LATEST).scalar() or 0)


def all_marks(connection: sa.Connection) -> tuple[GpuMark, ...]:
    """Every mark, inside a transaction."""
    rows = connection.execute(_MARKS).all()
    return tuple(GpuMark(r.subject, MarkKind(r.kind), r.reason, r.by, aware(r.since), r.comes_back) for r in rows)


def current_maintenance(connection: sa.Connection) -> Maintenance | None:
    """The maintenance that is on, inside a transaction."""
    row = connection.execute(_MAINTENANCE).first()
    return None if row is None else _maintenance(row.at, row.body)


def out_of_use(connection: sa.Connection) -> tuple[tuple[GpuMark, ...], Maintenance | None]:
    """Every mark, in no order, and the maintenance that is on."""
    found, maintenance = [], None
    for subject, kind, text, by, at, comes_back in connection.execute(_OUT_OF_USE):
        if kind == "maintenance":
            maintenance = _maintenance(at, text)
        else:
            found.append(GpuMark(subject, MarkKind(kind), text, by, aware(at), comes_back))
    return tuple(found), maintenance


def _maintenance(at: datetime, text: str) -> Maintenance:
    body = json.loads(text)
    deadline = datetime.fromisoformat(body["deadline"]) if body["deadline"] else None
    return Maintenance(aware(at), body["message"], body["by"], deadline)


def _unmark(connection: sa.Connection, subject: str, kinds: Iterable[MarkKind]) -> bool:
    result = connection.execute(
        marks.delete().where(marks.c.subject == subject, marks.c.kind.in_([kind.value for kind in kinds]))
    )
    return bool(result.rowcount)


def _note(connection: sa.Connection, kind: str, subject: str, at: datetime, body: Mapping[str, object]) -> None:
    connection.execute(notes.insert().values(kind=kind, subject=subject, at=naive(at), body=json.dumps(body)))


def _stored(moment: datetime | None) -> datetime | None:
    return naive(moment) if moment else None


def _sample_body(sample: GpuSample) -> dict[str, object]:
    return {
        "utilisation": sample.utilisation,
        "memory_used_mib": sample.memory_used_mib,
        "temperature": sample.temperature,
        "processes": None if sample.processes is None else [[one.pid, one.memory_mib, one.percent] for one in sample.processes],
        "faults": [[fault.kind, fault.detail, fault.code] for fault in sample.faults],
    }


def _sample(row: Any) -> GpuSample:
    body = json.loads(row.body)
    return GpuSample(
        uuid=row.subject,
        at=aware(row.at),
        utilisation=body["utilisation"],
        memory_used_mib=body["memory_used_mib"],
        temperature=body["temperature"],
        processes=None if body["processes"] is None else tuple(GpuProcess(*pair) for pair in body["processes"]),
        faults=tuple(Fault(*parts) for parts in body["faults"]),
    )


def _event(row: Any) -> Event:
    return Event(
        at=tables.aware(row.at), actor=row.actor, action=row.action, user=row.user, server=row.server, subject=row.subject,
        gpus=tuple(json.loads(row.gpus)), detail=json.loads(row.detail), number=row.number,
    )  # fmt: skip

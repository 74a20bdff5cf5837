"""Leases in the ledger: their legal transitions, and what is active.

Owns the changes of one lease after it was acquired. Never chooses GPUs (`requests` does, in its transaction) and never asks the
engine: `release` is called by `settlement` only, which has seen that the container is gone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from spawner.errors import LedgerError
from spawner.ledger import care, fairness
from spawner.ledger.journal import write_event
from spawner.ledger.store import Store
from spawner.ledger.tables import LIVE, aware, lease_gpus, lease_of, leases, naive, one_of, tickets, watches
from spawner.model import Holder, Lease, LeaseState
from spawner.records import TicketState

# A ticket whose lab could not be started is tried again, later each time, and then given up.
MOST_ATTEMPTS = 3
HELD_BACK = timedelta(seconds=30)


_WITH_GPUS = leases.outerjoin(lease_gpus, lease_gpus.c.lease_id == leases.c.id)
_LEASES = sa.select(leases, lease_gpus.c.uuid).select_from(_WITH_GPUS)
_ACTIVE = _LEASES.where(LIVE).order_by(leases.c.created, leases.c.id, lease_gpus.c.position)
_ACTIVE_OF_USER = _ACTIVE.where(leases.c.user == sa.bindparam("user"))
_BY_ID = _LEASES.where(leases.c.id == sa.bindparam("lease_id")).order_by(lease_gpus.c.position)
# As one text: a thousand rows would take longer to hand over than to read.
_TAKEN = sa.select(sa.func.aggregate_strings(lease_gpus.c.uuid, ",")).where(lease_gpus.c.active.is_(True))
# The same of a few devices and their seats: '$' is what follows '#'. SQLite compares bytes; elsewhere the order is the locale's.
_DEVICES = sa.func.json_each(sa.bindparam("devices")).table_valued("value")
_TAKEN_OF = (
    sa.select(sa.func.group_concat(lease_gpus.c.uuid))
    .select_from(
        _DEVICES.join(
            lease_gpus,
            sa.and_(lease_gpus.c.uuid >= _DEVICES.c.value, lease_gpus.c.uuid < _DEVICES.c.value.concat(sa.literal_column("'$'"))),
        )
    )
    .where(lease_gpus.c.active.is_(True))
)
FEW_DEVICES = 256
_FREE_GPUS = lease_gpus.update().where(lease_gpus.c.lease_id == sa.bindparam("of_lease")).values(active=False)
_UNWATCH = watches.delete().where(watches.c.lease == sa.bindparam("of_lease"))


class Leases(Store):
    """The part of the ledger that knows leases."""

    half_life = timedelta(days=7)

    def answered(self, lease_id: str, container: str) -> None:
        """Note that the engine answered the creation: with a container's id, or '' for a refusal."""
        self._change(lease_id, (LeaseState.STARTING, LeaseState.DRAINING), container=container, in_flight=False)

    def bind(self, lease_id: str, now: datetime | None = None) -> None:
        """Note that the lab runs; its ticket, if it came of one, is done.

        Raises:
            LedgerError: the lease is not *starting* any more: its start was given up meanwhile.
        """
        with self._transaction() as connection:
            lease = one(connection, lease_id)
            moment = naive(now or lease.created) if lease else None
            bound = {"state": LeaseState.BOUND.value, "bound": moment}
            if lease is None or not _update(connection, lease_id, (LeaseState.STARTING,), **bound):
                raise LedgerError("The start was given up before the lab was up.", "Start it again.")
            if lease.ticket:
                connection.execute(
                    tickets.update()
                    .where(tickets.c.id == lease.ticket, tickets.c.state == TicketState.STARTING.value)
                    .values(state=TicketState.DONE.value, ended=moment, why="")
                )
            write_event(connection, now or lease.created, "lab", "lease.bound", lease=lease)

    def drain(self, lease_id: str, now: datetime, *, ending: str = "", actor: str = "lab") -> None:
        """Note that the lab is to end. Idempotent; does not free anything.

        Args:
            lease_id: which.
            now: the present moment.
            ending: why, for the lab's owner; '' where they ended it themselves.
            actor: who ends it.
        """
        states = (LeaseState.STARTING, LeaseState.BOUND)
        with self._transaction() as connection:
            if _update(connection, lease_id, states, state=LeaseState.DRAINING.value, drained=naive(now)):
                write_event(connection, now, actor, "lease.draining", lease=one(connection, lease_id), detail={"why": ending})
            if ending:
                _note_ending(connection, lease_id, ending)

    def note_ending(self, lease_id: str, ending: str) -> None:
        """Write down why a lab ends, for its owner to read; the first reason stays."""
        with self._transaction() as connection:
            _note_ending(connection, lease_id, ending)

    def endings(self, holder: Holder) -> tuple[tuple[str, datetime, str], ...]:
        """Endings that the holder has not dismissed: lease id, moment, sentence; the newest first, at most five."""
        with self._transaction(write=False) as connection:
            found = connection.execute(
                sa.select(leases.c.id, sa.func.coalesce(leases.c.released, leases.c.drained, leases.c.created), leases.c.ending)
                .where(leases.c.user == holder.user, leases.c.server == holder.server, leases.c.ending != "")
                .order_by(leases.c.created.desc())
                .limit(5)
            )
            return tuple((row[0], aware(row[1]), row[2]) for row in found)

    def dismiss_endings(self, user: str) -> None:
        """Forget what a person has read about their labs' ends."""
        with self._transaction() as connection:
            connection.execute(
                leases.update()
                .where(leases.c.user == user, leases.c.ending != "", leases.c.state == LeaseState.RELEASED.value)
                .values(ending="")
            )

    def note_absent(self, lease_id: str, now: datetime | None) -> None:
        """Note the first *absent* of a draining lease, or forget it with None."""
        self._change(lease_id, (LeaseState.DRAINING,), absent_since=naive(now) if now else None)

    def release(self, lease_id: str, now: datetime, reason: str) -> None:
        """Give the GPUs back. Called by `settlement` only. Idempotent."""
        with self._transaction() as connection:
            release(connection, lease_id, now, reason, self.half_life)

    def set_end(self, lease_id: str, ends: datetime | None, actor: str, now: datetime) -> None:
        """Move the end of a lab's life."""
        with self._transaction() as connection:
            connection.execute(leases.update().where(leases.c.id == lease_id).values(ends=naive(ends) if ends else None))
            detail = {"ends": ends.isoformat() if ends else None}
            write_event(connection, now, actor, "lease.extended", lease=one(connection, lease_id), detail=detail)

    def add_idle(self, gpu_seconds: Iterable[tuple[str, float]]) -> None:
        """Add idle GPU-seconds to leases: pairs of lease id and seconds."""
        with self._transaction() as connection:
            for lease_id, seconds in gpu_seconds:
                connection.execute(
                    leases.update().where(leases.c.id == lease_id).values(idle_seconds=leases.c.idle_seconds + seconds)
                )

    def lease(self, lease_id: str) -> Lease | None:
        """One lease, released or not; None where it is not known."""
        with self._transaction(write=False) as connection:
            return one(connection, lease_id)

    def active(self) -> tuple[Lease, ...]:
        """All leases that are not released, oldest first."""
        with self._transaction(write=False) as connection:
            return active(connection)

    def active_of(self, holder: Holder) -> tuple[Lease, ...]:
        """The holder's leases that are not released, oldest first."""
        with self._transaction(write=False) as connection:
            return active(connection, leases.c.user == holder.user, leases.c.server == holder.server)

    def released(self, lease_ids: Iterable[str]) -> frozenset[str]:
        """Those of the given leases that are known and released; an unknown id is not among them."""
        with self._transaction(write=False) as connection:
            # Asked by id alone: with the state in the question SQLite reads all of the past, which is released leases.
            found = connection.execute(sa.select(leases.c.id, leases.c.state).where(leases.c.id.in_(list(lease_ids))))
            return frozenset(lease_id for lease_id, state in found if state == LeaseState.RELEASED.value)

    def held_seconds(self, newest: int = 200) -> dict[str, tuple[float, ...]]:
        """Profile → how long its newest ended labs held their GPUs, in seconds, sorted; what the line expects by."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                sa.select(leases.c.profile, leases.c.bound, leases.c.released)
                .where(leases.c.released.is_not(None), leases.c.bound.is_not(None), leases.c.gpus > 0)
                .order_by(leases.c.released.desc())
                .limit(newest)
            ).all()
        held: dict[str, list[float]] = {}
        for profile, bound, ended in rows:
            held.setdefault(profile, []).append((ended - bound).total_seconds())
        return {profile: tuple(sorted(seconds)) for profile, seconds in held.items()}

    def _change(self, lease_id: str, states: tuple[LeaseState, ...], **values: Any) -> bool:
        with self._transaction() as connection:
            return _update(connection, lease_id, states, **values)


@functools.cache
def _updating(states: tuple[LeaseState, ...], names: tuple[str, ...]) -> sa.Update:
    # Made once: to build a statement takes SQLAlchemy longer than SQLite takes to run it.
    known = leases.c.id == sa.bindparam("lease_id")
    return (
        leases.update()
        .where(known, one_of(leases.c.state, [state.value for state in states]))
        .values({name: sa.bindparam(f"new_{name}") for name in names})
    )


def _update(connection: sa.Connection, lease_id: str, states: tuple[LeaseState, ...], **values: Any) -> bool:
    new = {f"new_{name}": value for name, value in values.items()}
    return bool(connection.execute(_updating(states, tuple(values)), {"lease_id": lease_id, **new}).rowcount)


def _note_ending(connection: sa.Connection, lease_id: str, ending: str) -> None:
    connection.execute(leases.update().where(leases.c.id == lease_id, leases.c.ending == "").values(ending=ending[:1000]))


def active(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> tuple[Lease, ...]:
    """The leases that are not released and meet the conditions, oldest first."""
    return _read(connection.execute(_ACTIVE.where(*where) if where else _ACTIVE))


def active_of(connection: sa.Connection, user: str) -> tuple[Lease, ...]:
    """A person's leases that are not released, oldest first."""
    return _read(connection.execute(_ACTIVE_OF_USER, {"user": user}))


def taken(connection: sa.Connection, devices: frozenset[str]) -> tuple[str, ...]:
    """Every unit of these devices that a lease holds, and perhaps others; much less to read than the leases."""
    if connection.dialect.name == "sqlite" and len(devices) <= FEW_DEVICES:
        listed = connection.execute(_TAKEN_OF, {"devices": json.dumps(list(devices))}).scalar()
    else:
        listed = connection.execute(_TAKEN).scalar()
    return tuple(listed.split(",")) if listed else ()


def one(connection: sa.Connection, lease_id: str) -> Lease | None:
    """One lease, released or not."""
    return next(iter(_read(connection.execute(_BY_ID, {"lease_id": lease_id}))), None)


def _read(rows: Iterable[Any]) -> tuple[Lease, ...]:
    # One row for each GPU of a lease, or one without a GPU.
    first: dict[str, Any] = {}
    gpus: dict[str, list[str]] = {}
    for row in rows:
        first.setdefault(row.id, row)
        held = gpus.setdefault(row.id, [])
        if row.uuid is not None:
            held.append(row.uuid)
    return tuple(lease_of(row, tuple(gpus[lease_id])) for lease_id, row in first.items())


def release(
    connection: sa.Connection, lease_id: str, now: datetime, reason: str, half_life: timedelta, *, blameless: bool = False
) -> None:
    """Give a lease's GPUs back, inside a transaction; its ticket waits again if the lab never came up.

    Args:
        connection: of the transaction.
        lease_id: which.
        now: the present moment.
        reason: for the journal.
        half_life: of the fair share.
        blameless: it does not count as a failed start of the ticket.
    """
    lease = one(connection, lease_id)
    states = tuple(state for state in LeaseState if state is not LeaseState.RELEASED)
    values = {"state": LeaseState.RELEASED.value, "released": naive(now), "release_reason": reason[:200]}
    if lease is None or not _update(connection, lease_id, states, **values):
        return
    if lease.gpus:
        connection.execute(_FREE_GPUS, {"of_lease": lease_id})
    fairness.add(connection, lease.holder.user, len(lease.gpus), lease.created, now, half_life)
    write_event(connection, now, "lab", "lease.released", lease=lease, detail={"why": reason[:200]})
    care.on_release(connection, lease, now)
    connection.execute(_UNWATCH, {"of_lease": lease_id})
    if lease.ticket and lease.bound is None:
        _try_again(connection, lease, now, blameless)


def _try_again(connection: sa.Connection, lease: Lease, now: datetime, blameless: bool) -> None:
    row = connection.execute(sa.select(tickets).where(tickets.c.id == lease.ticket)).first()
    # The ticket may have gone on to another lease while this one was on its way out.
    if row is None or row.lease != lease.id or row.state not in (TicketState.STARTING.value, TicketState.CLAIMED.value):
        return
    attempts = row.attempts + (0 if blameless else 1)
    again = attempts < MOST_ATTEMPTS
    why = "The GPUs that were held for it went out of circulation." if blameless else "The last start did not succeed."
    connection.execute(
        tickets.update()
        .where(tickets.c.id == row.id)
        .values(
            state=(TicketState.WAITING if again else TicketState.FAILED).value,
            lease="",
            claim_until=None,
            attempts=attempts,
            held_back_until=naive(now + HELD_BACK * attempts) if again and not blameless else None,
            ended=None if again else naive(now),
            why=why if again else f"The lab could not be started, {attempts} times in a row.",
        )
    )
    action = "ticket.waits_again" if again else "ticket.failed"
    write_event(connection, now, "lab", action, user=row.user, server=row.server, subject=row.id)

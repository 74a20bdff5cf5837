"""What accounting, the audit trail and the metrics read from the ledger.

Owns these questions, each one read transaction that goes by an index: what lies before the period that was asked for is not
touched, however long the history is. Never writes, and sums nothing up (`spawner.usage` and `spawner.metering` do).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, TypeVar

import sqlalchemy as sa

from spawner.ledger import journal
from spawner.ledger.journal import all_marks
from spawner.ledger.leases import active
from spawner.ledger.store import Store
from spawner.ledger.tables import LIVE_TICKETS, aware, events, lease_gpus, leases, naive, tickets, words
from spawner.ledger.tickets import live_tickets
from spawner.metering import Metered, Reading
from spawner.model import LeaseState
from spawner.records import Event
from spawner.usage import Refusals, Span, Spell, Waiting

T = TypeVar("T")
SumUp = Callable[[Iterable[Spell], Sequence[Waiting], Sequence[Refusals]], T]

REFUSED = "request.refused"
METERED = ("lease.acquired", "lease.released", "lease.bound", "ticket.claimed", "ticket.cancelled", "ticket.failed")
BATCH = 1000  # rows that are fetched at once


class Usage(Store):
    """The part of the ledger that looks back."""

    def accounts(self, span: Span, sum_up: SumUp[T], user: str = "") -> T:
        """Hand what touches a period to a function that sums it up, and return what it says.

        Args:
            span: the period.
            sum_up: takes leases (once, in a stream), tickets that wait now, and refusals.
            user: only this person's; '' for everyone's.
        """
        with self._transaction(write=False) as connection:
            waiting, refusals = _waiting(connection, span, user), _refusals(connection, span, user)
            return sum_up(_spells(connection, span, user), waiting, refusals)

    def audit(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        person: str = "",
        gpu: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> tuple[Event, ...]:
        """Entries of the journal, newest first.

        Args:
            since: begin of the period; None leaves it open.
            until: its end; None leaves it open.
            person: only what they did, or what concerns them.
            gpu: only what concerns this GPU: its UUID, or a unit's name.
            before: number of the last entry that is known already; 0 for the first page.
            limit: how many at most.
        """
        # By time, because that has an index; entries of the same moment by number.
        query = sa.select(events).order_by(events.c.at.desc(), events.c.number.desc()).limit(limit)
        if since is not None:
            query = query.where(events.c.at >= naive(since))
        if until is not None:
            query = query.where(events.c.at < naive(until))
        if person:
            query = query.where(sa.or_(events.c.user == person, events.c.actor == person))
        if gpu:
            # A name stands in quotes; that of a device is also the beginning of its seats' names.
            held = [events.c.gpus.contains(f'"{gpu}{end}', autoescape=True) for end in ('"', "#")]
            query = query.where(sa.or_(*held, events.c.subject == gpu))
        if before:
            then = sa.select(events.c.at).where(events.c.number == before).scalar_subquery()
            query = query.where(events.c.at <= then, sa.or_(events.c.at < then, events.c.number < before))
        with self._transaction(write=False) as connection:
            return tuple(journal._event(row) for row in connection.execute(query))

    def reading(self, after: int | None) -> Reading:
        """What the metrics are made of: everything that is active, and what has happened since.

        Args:
            after: number of the journal's entry up to which it is known; None for the first reading, which asks for no past.
        """
        with self._transaction(write=False) as connection:
            newest = int(connection.execute(sa.select(sa.func.max(events.c.number))).scalar() or 0)
            happened: list[Any] = []
            if after is not None:
                # Actions are chosen here and not there, where they would be preferred to the numbers as an index.
                rows = connection.execute(
                    sa.select(events.c.action, events.c.subject).where(events.c.number > after).order_by(events.c.number)
                )
                happened = [row for row in rows if row.action in METERED]
            live = active(connection)
            known = {row.subject for row in happened} | {lease.id for lease in live}
            return Reading(
                number=newest,
                leases=live,
                waiting=tuple(ticket.request.profile for ticket in live_tickets(connection, tickets.c.state == LIVE_TICKETS[0])),
                marks=all_marks(connection),
                events=tuple((row.action, row.subject) for row in happened),
                metered=_metered(connection, sorted(known)),
            )


_UNITS = (
    sa.select(sa.func.aggregate_strings(lease_gpus.c.uuid, ","))
    .where(lease_gpus.c.lease_id == leases.c.id)
    .correlate(leases)
    .scalar_subquery()
    .label("units")
)


def _spells(connection: sa.Connection, span: Span, user: str) -> Iterator[Spell]:
    query = sa.select(
        leases.c.user, leases.c.groups, leases.c.profile, leases.c.created, leases.c.released, leases.c.idle_seconds,
        leases.c.waited, _UNITS,
    ).where(leases.c.created < naive(span.until))  # fmt: skip
    if user:
        query = query.where(leases.c.user == user)
    # Two questions instead of an OR: each of them goes by the index of `released`.
    asked = (query.where(leases.c.released.is_(None)), query.where(leases.c.released >= naive(span.since)))
    for row in chain.from_iterable(connection.execute(one, execution_options={"yield_per": BATCH}) for one in asked):
        units = tuple(row.units.split(",")) if row.units else ()
        yield Spell(
            row.user, words(row.groups), row.profile, units, aware(row.created), aware(row.released), row.idle_seconds, row.waited
        )


def _waiting(connection: sa.Connection, span: Span, user: str) -> list[Waiting]:
    where = [tickets.c.user == user] if user else []
    return [
        Waiting(found.holder.user, found.groups, found.request.profile, max(0.0, (span.now - found.created).total_seconds()))
        for found in live_tickets(connection, tickets.c.state == LIVE_TICKETS[0], *where)
    ]


def _refusals(connection: sa.Connection, span: Span, user: str) -> list[Refusals]:
    query = (
        sa.select(events.c.user, events.c.detail, sa.func.count().label("times"))
        .where(events.c.action == REFUSED, events.c.at >= naive(span.since), events.c.at < naive(span.until))
        .group_by(events.c.user, events.c.detail)
    )
    if user:
        query = query.where(events.c.user == user)
    found = []
    for row in connection.execute(query):
        detail = json.loads(row.detail)
        groups = tuple(str(group) for group in detail.get("groups", ()))
        found.append(Refusals(row.user, groups, str(detail.get("profile", "")), str(detail.get("reason", "")), row.times))
    return found


def _metered(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Metered]:
    found: dict[str, Metered] = {}
    for start in range(0, len(ids), 500):
        rows = connection.execute(
            sa.select(
                leases.c.id, leases.c.profile, leases.c.state, leases.c.created, leases.c.released, leases.c.idle_seconds,
                leases.c.waited, leases.c.ticket, _UNITS,
            ).where(leases.c.id.in_(list(ids[start : start + 500])))
        )  # fmt: skip
        for row in rows:
            ended = aware(row.released) if row.state == LeaseState.RELEASED.value else None
            units = tuple(row.units.split(",")) if row.units else ()
            found[row.id] = Metered(row.profile, units, aware(row.created), ended, row.idle_seconds, row.waited, bool(row.ticket))
    return found

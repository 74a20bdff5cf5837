"""What policy and the line look at, read inside the transaction in which they decide.

Owns the picture: what a person has, what they used in the last seven days, who waits, and which GPUs are in circulation. Never
writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from spawner import sharing
from spawner.ledger import fairness
from spawner.ledger.journal import all_marks, current_maintenance
from spawner.ledger.leases import active, active_of
from spawner.ledger.tables import aware, leases, naive, one_of, tickets, words
from spawner.ledger.tickets import live_tickets, live_tickets_of
from spawner.model import Gpu, GpuRequest, Holder, Lease
from spawner.records import GpuMark, Maintenance, Standing, Ticket, TicketState

WEEK = timedelta(days=7)
_LATELY = sa.select(leases.c.user, leases.c.profile, leases.c.gpus, leases.c.created, leases.c.released).where(
    leases.c.gpus > 0, sa.or_(leases.c.released.is_(None), leases.c.released > sa.bindparam("begin"))
)
_LATELY_OF_ONE = _LATELY.where(leases.c.user == sa.bindparam("users"))
_LATELY_OF_MANY = _LATELY.where(leases.c.user.in_(sa.bindparam("users", expanding=True)))
# The kinds of requests that wait, each with the least memory asked: one step in an index for each, however long the line is.
_OF_KIND = sa.and_(
    one_of(tickets.c.state, [TicketState.WAITING.value]),
    tickets.c.sharing == sa.bindparam("sharing"),
    tickets.c.id != sa.bindparam("but"),
)
_FIRST_KIND = sa.select(sa.func.min(tickets.c.models).label("models")).where(_OF_KIND).cte("kinds", recursive=True)
_NEXT_KIND = sa.select(sa.func.min(tickets.c.models)).where(_OF_KIND, tickets.c.models > _FIRST_KIND.c.models).scalar_subquery()
_EVERY_KIND = _FIRST_KIND.union_all(sa.select(_NEXT_KIND).where(_FIRST_KIND.c.models.is_not(None)))
_KINDS = sa.select(
    _EVERY_KIND.c.models,
    sa.select(sa.func.min(tickets.c.memory_mib)).where(_OF_KIND, tickets.c.models == _EVERY_KIND.c.models).scalar_subquery(),
).where(_EVERY_KIND.c.models.is_not(None))


@dataclass(frozen=True, slots=True)
class Line:
    """What the line looks like, for the function that says whose turn it is.

    Attributes:
        waiting: tickets without a claim, oldest first.
        leases: all leases that are not released, claims among them.
        gpus: every GPU in circulation.
        shares: person → GPU-seconds of ended leases, decayed to now.
        standings: person → what they have.
    """

    waiting: tuple[Ticket, ...]
    leases: tuple[Lease, ...]
    gpus: tuple[Gpu, ...]
    shares: Mapping[str, float]
    standings: Mapping[str, Standing]


def in_circulation(gpus: Sequence[Gpu], marks: Sequence[GpuMark]) -> tuple[Gpu, ...]:
    """The units that no mark takes out, neither by themselves nor by their device, their parent or their node."""
    out = {mark.subject for mark in marks}
    return tuple(gpu for gpu in gpus if not out & {gpu.uuid, gpu.device, gpu.parent, gpu.node}) if out else tuple(gpus)


def standing_of(connection: sa.Connection, holder: Holder, now: datetime) -> Standing:
    """What a person has, other than a ticket for this very lab."""
    return standing_with(connection, holder, now, live_tickets_of(connection, holder.user), current_maintenance(connection))


def standing_with(
    connection: sa.Connection, holder: Holder, now: datetime, theirs: Sequence[Ticket], maintenance: Maintenance | None
) -> Standing:
    """The same, where the person's tickets and the maintenance were read already."""
    return Standing(
        leases=active_of(connection, holder.user),
        tickets=sum(ticket.holder.server != holder.server for ticket in theirs),
        gpu_seconds=_week(connection, (holder.user,), now).get(holder.user, {}),
        maintenance=maintenance,
    )


def _week(connection: sa.Connection, users: Sequence[str], now: datetime) -> dict[str, dict[str, float]]:
    """Person → profile → GPU-seconds in the last seven days."""
    begin = now - WEEK
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), 500):
        some = list(users[start : start + 500])
        one = len(some) == 1
        rows = connection.execute(
            _LATELY_OF_ONE if one else _LATELY_OF_MANY, {"users": some[0] if one else some, "begin": naive(begin)}
        )
        for user, profile, gpus, created, released in rows:
            since = max(aware(created), begin)
            seconds = gpus * max(0.0, ((aware(released) or now) - since).total_seconds())
            mine = found.setdefault(user, {})
            mine[profile] = mine.get(profile, 0.0) + seconds
    return found


def line_of(connection: sa.Connection, gpus: Sequence[Gpu], now: datetime, half_life: timedelta) -> Line:
    """The line as it stands."""
    live = live_tickets(connection)
    waiting = tuple(ticket for ticket in live if ticket.state is TicketState.WAITING)
    leased = active(connection)
    users = sorted({ticket.holder.user for ticket in waiting})
    week = _week(connection, users, now) if users else {}
    maintenance = current_maintenance(connection)
    by_user: dict[str, list[Lease]] = {}
    for lease in leased:
        by_user.setdefault(lease.holder.user, []).append(lease)
    standings = {user: Standing(tuple(by_user.get(user, ())), 0, week.get(user, {}), maintenance) for user in users}
    shares = fairness.sums(connection, {*users, *by_user}, now, half_life)
    return Line(waiting, leased, in_circulation(gpus, all_marks(connection)), shares, standings)


def others_wait(connection: sa.Connection, request: GpuRequest, usable: Sequence[Gpu], mine: Ticket | None) -> bool:
    """Whether somebody else waits for a GPU that this request could use; `mine` is the ticket of the request itself."""
    mine_only = set(request.gpu_models)
    for other in _waited_for(connection, request.sharing, mine):
        if mine_only and other.gpu_models and mine_only.isdisjoint(other.gpu_models):
            continue
        if any(sharing.suits(gpu, request) and sharing.suits(gpu, other) for gpu in usable):
            return True
    return False


def _waited_for(connection: sa.Connection, kind: str, mine: Ticket | None) -> Iterator[GpuRequest]:
    for models, memory_mib in connection.execute(_KINDS, {"sharing": kind, "but": mine.id if mine else ""}):
        yield GpuRequest("", 1, words(models), memory_mib, kind)

"""Requests in the ledger: a request becomes a lease or a ticket, and a ticket becomes a claim.

Owns the two transactions in which policy, placement and lease are one: `acquire`, for a person who starts a lab, and `advance`,
for the line. Never decides itself: the pure functions are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from spawner.errors import DeniedError, NoGpuFree
from spawner.ledger import fairness
from spawner.ledger.journal import Journal, all_marks, current_maintenance, write_event
from spawner.ledger.leases import active
from spawner.ledger.tables import aware, lease_gpus, leases, naive, stored, tickets, words
from spawner.ledger.tickets import Tickets, cancel, live_tickets
from spawner.line import Turn as Turn
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState
from spawner.records import GpuMark, Grant, Standing, Ticket, TicketState

WEEK = timedelta(days=7)

Admit = Callable[[GpuRequest, Holder, Standing], Grant]
Choose = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]


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


class Requests(Tickets, Journal):
    """The part of the ledger that gives GPUs."""

    def acquire(
        self,
        request: GpuRequest,
        holder: Holder,
        gpus: Sequence[Gpu],
        *,
        lease_id: str,
        now: datetime,
        admit: Admit,
        choose: Choose,
    ) -> Lease | Ticket:
        """Policy, placement and lease in one transaction; a claim of the holder becomes the lease.

        Args:
            request: what is asked.
            holder: who asks.
            gpus: every GPU of the lab, as the inventory sees it now.
            lease_id: a new id, 32 hex digits; of the lease or of the ticket.
            now: the present moment.
            admit: raises when the holder may not have it; says what is granted.
            choose: picks the GPUs; raises when too few are free.

        Returns:
            The lease, in state *starting* and with its creation in flight; or the holder's ticket, where GPUs are missing or
            others wait for them already.

        Raises:
            LabError: whatever `admit` or `choose` raised; nothing was written.
            LedgerError: the database refused.
        """
        with self._transaction() as connection:
            mine = next(iter(live_tickets(connection, *_of(holder))), None)
            if mine and mine.state is TicketState.CLAIMED and _same(mine.request, request):
                return self._take_claim(connection, mine, now, admit)
            grant = admit(request, holder, _standing(connection, holder, now))
            if mine and not _same(mine.request, request):
                # The holder starts something else under this name: what waited for it has no lab left to become.
                cancel(connection, tickets.c.id == mine.id, now, holder.user, "Another lab was started instead.", self.half_life)
                mine = None
            if mine and mine.state is TicketState.WAITING and request.wait:
                return mine
            usable = _in_circulation(gpus, all_marks(connection))
            if request.gpus and request.wait and _others_wait(connection, request):
                return self._enqueue(connection, lease_id, holder, grant, now)
            try:
                chosen = choose(grant.request, usable, active(connection) if request.gpus else ())
            except NoGpuFree as error:
                if error.wanted > error.total or not request.wait:
                    raise
                return self._enqueue(connection, lease_id, holder, grant, now)
            lease = Lease(
                lease_id, holder, request.profile, chosen, LeaseState.STARTING, now, in_flight=True,
                ends=_ends(grant, chosen, now), groups=grant.groups, priority=grant.priority,
            )  # fmt: skip
            _insert(connection, lease)
            write_event(connection, now, holder.user, "lease.acquired", lease=lease)
        return lease

    def advance(
        self,
        gpus: Sequence[Gpu],
        now: datetime,
        plan: Callable[[Line], Sequence[Turn]],
        new_id: Callable[[], str],
        claim: timedelta,
    ) -> tuple[Ticket, ...]:
        """Give claims to the tickets whose turn it is, and take back those that were not used in time.

        Args:
            gpus: every GPU of the lab.
            now: the present moment.
            plan: the pure function that says whose turn it is.
            new_id: makes the ids of the claims.
            claim: how long a claim is held.

        Returns:
            Every ticket that has a claim now, oldest first.
        """
        with self._transaction() as connection:
            self._end_stale(connection, now, lambda ticket: ticket.claim_until is not None and ticket.claim_until < now)
            line = _line(connection, gpus, now, self.half_life)
            for turn in plan(line) if line.waiting else ():
                ticket = turn.ticket
                lease = Lease(
                    new_id(), ticket.holder, ticket.request.profile, turn.gpus, LeaseState.CLAIMED, now,
                    groups=ticket.groups, ticket=ticket.id, priority=ticket.priority,
                )  # fmt: skip
                _insert(connection, lease, waited=(now - ticket.created).total_seconds())
                connection.execute(
                    tickets.update()
                    .where(tickets.c.id == ticket.id)
                    .values(state=TicketState.CLAIMED.value, lease=lease.id, claim_until=naive(now + claim), why="")
                )
                write_event(connection, now, "lab", "ticket.claimed", lease=lease)
            return live_tickets(connection, tickets.c.state == TicketState.CLAIMED.value)

    def line(self, gpus: Sequence[Gpu], now: datetime) -> Line:
        """The line as it stands, to look at."""
        with self._transaction(write=False) as connection:
            return _line(connection, gpus, now, self.half_life)

    def standing(self, holder: Holder, now: datetime) -> Standing:
        """What a person has."""
        with self._transaction(write=False) as connection:
            return _standing(connection, holder, now)

    def _take_claim(self, connection: sa.Connection, ticket: Ticket, now: datetime, admit: Admit) -> Lease:
        standing = _standing(connection, ticket.holder, now)
        others = tuple(lease for lease in standing.leases if lease.id != ticket.lease)
        grant = admit(
            ticket.request, ticket.holder, Standing(others, standing.tickets, standing.gpu_seconds, standing.maintenance)
        )
        (claim,) = active(connection, leases.c.id == ticket.lease)
        ends = _ends(grant, claim.gpus, now)
        connection.execute(
            leases.update()
            .where(leases.c.id == claim.id)
            .values(state=LeaseState.STARTING.value, in_flight=True, created=naive(now), ends=naive(ends) if ends else None)
        )
        connection.execute(
            tickets.update().where(tickets.c.id == ticket.id).values(state=TicketState.STARTING.value, claim_until=None)
        )
        (lease,) = active(connection, leases.c.id == claim.id)
        write_event(connection, now, ticket.holder.user, "lease.acquired", lease=lease)
        return lease

    def _enqueue(self, connection: sa.Connection, ticket_id: str, holder: Holder, grant: Grant, now: datetime) -> Ticket:
        if grant.no_ticket:
            raise DeniedError(grant.no_ticket, "Cancel one of them first.")
        request = grant.request
        ticket = Ticket(ticket_id, holder, request, grant.groups, grant.priority, now)
        connection.execute(
            tickets.insert().values(
                id=ticket_id, user=holder.user, server=holder.server, profile=request.profile, gpus=request.gpus,
                models=stored(request.gpu_models), memory_mib=request.gpu_memory_mib, sharing=request.sharing,
                groups=stored(grant.groups), priority=grant.priority, created=naive(now), state=TicketState.WAITING.value,
            )
        )  # fmt: skip
        write_event(
            connection, now, holder.user, "ticket.made", user=holder.user, server=holder.server, subject=ticket_id,
            detail={"profile": request.profile, "gpus": request.gpus},
        )  # fmt: skip
        return ticket


def _of(holder: Holder) -> tuple[sa.ColumnElement[bool], ...]:
    return (tickets.c.user == holder.user, tickets.c.server == holder.server)


def _same(first: GpuRequest, second: GpuRequest) -> bool:
    return (first.profile, first.gpus) == (second.profile, second.gpus)


def _others_wait(connection: sa.Connection, request: GpuRequest) -> bool:
    # Whose turn it is, the line says within a second. Only a request for GPUs that nobody waits for goes past it.
    kinds = connection.execute(
        sa.select(tickets.c.models, tickets.c.sharing).where(tickets.c.state == TicketState.WAITING.value).distinct()
    ).all()
    return any(
        kind.sharing == request.sharing
        and (not kind.models or not request.gpu_models or set(words(kind.models)) & set(request.gpu_models))
        for kind in kinds
    )


def _in_circulation(gpus: Sequence[Gpu], marks: Sequence[GpuMark]) -> tuple[Gpu, ...]:
    out = {mark.subject for mark in marks}
    return tuple(gpu for gpu in gpus if not out & {gpu.uuid, gpu.device, gpu.parent, gpu.node}) if out else tuple(gpus)


def _ends(grant: Grant, gpus: Sequence[str], now: datetime) -> datetime | None:
    return now + grant.life if grant.life is not None and gpus else None


def _insert(connection: sa.Connection, lease: Lease, waited: float = 0.0) -> None:
    connection.execute(
        leases.insert().values(
            id=lease.id, user=lease.holder.user, server=lease.holder.server, profile=lease.profile, state=lease.state.value,
            container="", in_flight=lease.in_flight, created=naive(lease.created), release_reason="",
            ends=naive(lease.ends) if lease.ends else None, gpus=len(lease.gpus), groups=stored(lease.groups),
            ticket=lease.ticket, priority=lease.priority, waited=waited,
        )
    )  # fmt: skip
    if lease.gpus:
        connection.execute(
            lease_gpus.insert(),
            [
                {"lease_id": lease.id, "uuid": uuid, "position": position, "active": True}
                for position, uuid in enumerate(lease.gpus)
            ],
        )


def _standing(connection: sa.Connection, holder: Holder, now: datetime) -> Standing:
    others = live_tickets(connection, tickets.c.user == holder.user, tickets.c.server != holder.server)
    return Standing(
        leases=active(connection, leases.c.user == holder.user),
        tickets=len(others),
        gpu_seconds=_week(connection, (holder.user,), now).get(holder.user, {}),
        maintenance=current_maintenance(connection),
    )


def _week(connection: sa.Connection, users: Sequence[str], now: datetime) -> dict[str, dict[str, float]]:
    """Person → profile → GPU-seconds in the last seven days."""
    begin = now - WEEK
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), 500):
        rows = connection.execute(
            sa.select(leases.c.user, leases.c.profile, leases.c.gpus, leases.c.created, leases.c.released).where(
                leases.c.user.in_(list(users[start : start + 500])),
                leases.c.gpus > 0,
                sa.or_(leases.c.released.is_(None), leases.c.released > naive(begin)),
            )
        )
        for user, profile, gpus, created, released in rows:
            since = max(aware(created), begin)
            seconds = gpus * max(0.0, ((aware(released) or now) - since).total_seconds())
            mine = found.setdefault(user, {})
            mine[profile] = mine.get(profile, 0.0) + seconds
    return found


def _line(connection: sa.Connection, gpus: Sequence[Gpu], now: datetime, half_life: timedelta) -> Line:
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
    return Line(waiting, leased, _in_circulation(gpus, all_marks(connection)), shares, standings)

"""Requests in the ledger: a request becomes a lease or a ticket, and a ticket becomes a claim.

Owns the two transactions in which policy, placement and lease are one: `acquire`, for a person who starts a lab, and `advance`,
for the line. Never decides itself: the pure functions are handed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from spawner import sharing
from spawner.errors import DeniedError, NoGpuFree
from spawner.ledger.journal import Journal, all_marks, latest, out_of_use, write_event
from spawner.ledger.leases import active, one, release, taken
from spawner.ledger.picture import Line as Line
from spawner.ledger.picture import in_circulation, line_of, others_wait, standing_of, standing_with
from spawner.ledger.tables import lease_gpus, leases, naive, one_of, stored, tickets
from spawner.ledger.tickets import Tickets, cancel, live_tickets, live_tickets_of, require_budget
from spawner.line import Turn as Turn
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState
from spawner.records import Grant, Standing, Ticket, TicketState

_LEASE = leases.insert()
_UNIT = lease_gpus.insert()
_TICKET = tickets.insert()
_START = (
    leases.update().where(leases.c.id == sa.bindparam("of_lease")).values(state=LeaseState.STARTING.value, in_flight=True)
).values(starting=sa.bindparam("starting"), ends=sa.bindparam("ends"))
_TICKET_STARTS = (
    tickets.update()
    .where(tickets.c.id == sa.bindparam("of_ticket"))
    .values(state=TicketState.STARTING.value, claim_until=None, lease=sa.bindparam("lease"))
)
_CLAIMED = one_of(tickets.c.state, [TicketState.CLAIMED.value])
# Plans that are made without the lock before one is made under it.
PLANS_BESIDE = 3
Admit = Callable[[GpuRequest, Holder, Standing], Grant]
Choose = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]


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
            marks, maintenance = out_of_use(connection)
            usable = in_circulation(gpus, marks)
            theirs = live_tickets_of(connection, holder.user)
            mine = _at(theirs, holder)
            if mine and mine.state is TicketState.CLAIMED and _same(mine.request, request):
                standing = standing_with(connection, holder, now, theirs, maintenance)
                claim = next((lease for lease in standing.leases if lease.id == mine.lease), None)
                if claim and _usable(claim, usable):
                    return self._take_claim(connection, mine, claim, standing, now, admit)
                self._end_unusable(connection, mine, usable, now)
                theirs = live_tickets_of(connection, holder.user)
                mine = _at(theirs, holder)
            grant = admit(request, holder, standing_with(connection, holder, now, theirs, maintenance))
            if mine and not _same(mine.request, request):
                # The holder starts something else under this name: what waited for it has no lab left to become.
                why = "Another lab was started instead."
                cancel(connection, tickets.c.id == mine.id, now, holder.user, why, self.half_life, starting=True)
                mine = None
            if mine and request.wait:
                # Where a start of it is not settled yet, it waits again as soon as that is.
                return mine
            chosen = _pick(connection, grant.request, request.wait, gpus, usable, mine, choose)
            if chosen is None:
                return self._enqueue(connection, lease_id, holder, grant, now)
            lease = Lease(
                lease_id, holder, request.profile, chosen, LeaseState.STARTING, now, in_flight=True,
                ends=_ends(grant, chosen, now), groups=grant.groups, ticket=mine.id if mine else "", priority=grant.priority,
            )  # fmt: skip
            _insert(connection, lease, waited=(now - mine.created).total_seconds() if mine else 0.0)
            if mine:
                connection.execute(_TICKET_STARTS, {"of_ticket": mine.id, "lease": lease.id})
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
        self._end_claims(gpus, now)
        # To plan for a long line takes a while, in which nobody who starts or ends a lab is to wait: it is done on a picture, and
        # holds only if nothing was changed meanwhile. Where something always is, it is done under the lock in the end.
        for _ in range(PLANS_BESIDE):
            with self._transaction(write=False) as connection:
                seen, line = latest(connection), line_of(connection, gpus, now, self.half_life)
                claimed = live_tickets(connection, _CLAIMED)
            turns = plan(line) if line.waiting else ()
            if not turns:
                return claimed
            with self._transaction() as connection:
                if latest(connection) == seen:
                    return self._give(connection, turns, now, new_id, claim)
        with self._transaction() as connection:
            line = line_of(connection, gpus, now, self.half_life)
            return self._give(connection, plan(line) if line.waiting else (), now, new_id, claim)

    def _end_claims(self, gpus: Sequence[Gpu], now: datetime) -> None:
        """Take back claims that were not used in time, or whose GPUs went out of circulation."""

        def ended(connection: sa.Connection) -> list[Ticket]:
            return [
                ticket
                for ticket in live_tickets(connection, _CLAIMED)
                if (ticket.claim_until is not None and ticket.claim_until < now)
                or not _usable(one(connection, ticket.lease), in_circulation(gpus, all_marks(connection)))
            ]

        with self._transaction(write=False) as connection:
            if not ended(connection):
                return
        with self._transaction() as connection:
            usable = in_circulation(gpus, all_marks(connection))
            for ticket in ended(connection):
                if ticket.claim_until is not None and ticket.claim_until < now:
                    release(connection, ticket.lease, now, "the claim was not used in time", self.half_life)
                else:
                    self._end_unusable(connection, ticket, usable, now)

    def _give(
        self, connection: sa.Connection, turns: Sequence[Turn], now: datetime, new_id: Callable[[], str], claim: timedelta
    ) -> tuple[Ticket, ...]:
        for turn in turns:
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
        return live_tickets(connection, _CLAIMED)

    def line(self, gpus: Sequence[Gpu], now: datetime) -> Line:
        """The line as it stands, to look at."""
        with self._transaction(write=False) as connection:
            return line_of(connection, gpus, now, self.half_life)

    def standing(self, holder: Holder, now: datetime) -> Standing:
        """What a person has."""
        with self._transaction(write=False) as connection:
            return standing_of(connection, holder, now)

    def _end_unusable(self, connection: sa.Connection, ticket: Ticket, usable: Sequence[Gpu], now: datetime) -> None:
        """End a claim on GPUs that went out of circulation; the ticket did nothing wrong and waits on in its place."""
        if not _usable(one(connection, ticket.lease), usable):
            why = "a GPU of the claim went out of circulation"
            release(connection, ticket.lease, now, why, self.half_life, blameless=True)

    def _take_claim(
        self, connection: sa.Connection, ticket: Ticket, claim: Lease, standing: Standing, now: datetime, admit: Admit
    ) -> Lease:
        others = tuple(lease for lease in standing.leases if lease.id != claim.id)
        grant = admit(
            ticket.request, ticket.holder, Standing(others, standing.tickets, standing.gpu_seconds, standing.maintenance)
        )
        # A claim that has an end came of a restart: the life of that lab goes on, and does not begin anew.
        ends = claim.ends or _ends(grant, claim.gpus, now)
        lease = dataclasses.replace(claim, state=LeaseState.STARTING, in_flight=True, starting=now, ends=ends)
        connection.execute(_START, {"of_lease": claim.id, "starting": naive(now), "ends": naive(ends) if ends else None})
        connection.execute(_TICKET_STARTS, {"of_ticket": ticket.id, "lease": lease.id})
        write_event(connection, now, ticket.holder.user, "lease.acquired", lease=lease)
        return lease

    def _enqueue(self, connection: sa.Connection, ticket_id: str, holder: Holder, grant: Grant, now: datetime) -> Ticket:
        if grant.no_ticket:
            raise DeniedError(grant.no_ticket, "Cancel one of them first.")
        require_budget(connection, holder.user, now)
        request = grant.request
        ticket = Ticket(ticket_id, holder, request, grant.groups, grant.priority, now)
        connection.execute(
            _TICKET,
            {
                "id": ticket_id, "user": holder.user, "server": holder.server, "profile": request.profile, "gpus": request.gpus,
                "models": stored(request.gpu_models), "memory_mib": request.gpu_memory_mib, "sharing": request.sharing,
                "groups": stored(grant.groups), "priority": grant.priority, "created": naive(now),
                "state": TicketState.WAITING.value,
            },
        )  # fmt: skip
        write_event(
            connection, now, holder.user, "ticket.made", user=holder.user, server=holder.server, subject=ticket_id,
            detail={"profile": request.profile, "gpus": request.gpus},
        )  # fmt: skip
        return ticket


def _usable(claim: Lease | None, usable: Sequence[Gpu]) -> bool:
    if claim is None or claim.state is not LeaseState.CLAIMED:
        return False
    wanted = set(claim.gpus)
    return wanted == {gpu.uuid for gpu in usable if gpu.uuid in wanted}


def _at(theirs: Iterable[Ticket], holder: Holder) -> Ticket | None:
    return next((ticket for ticket in theirs if ticket.holder == holder), None)


def _same(first: GpuRequest, second: GpuRequest) -> bool:
    return (first.profile, first.gpus) == (second.profile, second.gpus)


def _pick(
    connection: sa.Connection,
    request: GpuRequest,
    wait: bool,
    gpus: Sequence[Gpu],
    usable: Sequence[Gpu],
    mine: Ticket | None,
    choose: Choose,
) -> tuple[str, ...] | None:
    """The GPUs that a request gets now; None where it is to wait."""
    if not request.gpus:
        return choose(request, usable, ())
    # Whose turn it is, the line says within a second. Only a request for GPUs that nobody waits for goes past it.
    if not others_wait(connection, request, usable, mine):
        try:
            # What is taken of what suits is all that the choice needs; who holds it, only a refusal tells.
            near = sharing.near(usable, request)
            units = taken(connection, sharing.devices(near))
            return choose(request, near, (Lease("", Holder(""), "", units, LeaseState.BOUND, datetime.min),))
        except NoGpuFree:
            if not wait:
                return choose(request, usable, active(connection))
    # What not even the whole lab could give is refused here: nobody is to wait for it.
    if not sharing.fits_one_node(gpus, request):
        choose(request, gpus, ())
    if not wait:
        raise NoGpuFree(
            f"You asked for {request.gpus} GPU{'s' if request.gpus != 1 else ''}; others wait in line for such GPUs.",
            "Wait in line too, or start without a GPU meanwhile.",
            wanted=request.gpus,
            free=0,
            total=sum(sharing.suits(gpu, request) for gpu in gpus),
        )
    return None


def _ends(grant: Grant, gpus: Sequence[str], now: datetime) -> datetime | None:
    return now + grant.life if grant.life is not None and gpus else None


def _insert(connection: sa.Connection, lease: Lease, waited: float = 0.0) -> None:
    connection.execute(
        _LEASE,
        {
            "id": lease.id, "user": lease.holder.user, "server": lease.holder.server, "profile": lease.profile,
            "state": lease.state.value, "container": "", "in_flight": lease.in_flight, "created": naive(lease.created),
            "release_reason": "", "ends": naive(lease.ends) if lease.ends else None, "gpus": len(lease.gpus),
            "groups": stored(lease.groups), "ticket": lease.ticket, "priority": lease.priority, "waited": waited,
        },
    )  # fmt: skip
    if lease.gpus:
        connection.execute(
            _UNIT,
            [
                {"lease_id": lease.id, "uuid": uuid, "position": position, "active": True}
                for position, uuid in enumerate(lease.gpus)
            ],
        )

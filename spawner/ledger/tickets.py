"""Tickets in the ledger: who waits, and how a ticket ends otherwise than by its turn.

Owns reading, cancelling and moving tickets. Never decides whose turn it is (`line` does) and never makes a claim (`requests`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from spawner.errors import DeniedError
from spawner.ledger.journal import write_event
from spawner.ledger.leases import Leases, active_of, release
from spawner.ledger.tables import IN_LINE, aware, events, naive, notes, one_of, ticket_of, tickets
from spawner.model import Holder
from spawner.records import Ticket, TicketState

# A script that asks and cancels in a loop must not fill the disk: one person makes so many tickets in an hour.
MOST_TICKETS = 60
_LATELY = sa.select(sa.func.count()).where(tickets.c.user == sa.bindparam("user"), tickets.c.created > sa.bindparam("since"))
_IN_LINE = sa.select(tickets).where(IN_LINE).order_by(tickets.c.created, tickets.c.id)
# Tickets that ended otherwise than their owner wanted: they failed, or somebody else cancelled them.
_ENDED = (
    sa.select(tickets)
    .where(one_of(tickets.c.state, [TicketState.CANCELLED.value, TicketState.FAILED.value]))
    .where(tickets.c.user == sa.bindparam("user"), tickets.c.ended > sa.bindparam("since"))
    .where(
        ~sa.exists().where(
            events.c.action == "ticket.cancelled", events.c.at > sa.bindparam("since"), events.c.subject == tickets.c.id,
            events.c.actor == tickets.c.user,
        )
    )
    .order_by(tickets.c.ended.desc())
)  # fmt: skip
_READ = "tickets.read"
# Who comes back after the night reads it; later it is no news any more.
SHOWN_ENDED = timedelta(hours=24)
_IN_LINE_OF_USER = _IN_LINE.where(tickets.c.user == sa.bindparam("user"))


class Tickets(Leases):
    """The part of the ledger that knows the waiting line."""

    def tickets(self) -> tuple[Ticket, ...]:
        """All tickets that still count, oldest first."""
        with self._transaction(write=False) as connection:
            return live_tickets(connection)

    def tickets_of(self, user: str) -> tuple[Ticket, ...]:
        """A person's tickets that still count, oldest first."""
        with self._transaction(write=False) as connection:
            return live_tickets_of(connection, user)

    def anybody_waits(self) -> bool:
        """Whether a ticket still counts; cheap to ask."""
        with self._transaction(write=False) as connection:
            found = connection.execute(sa.select(tickets.c.id).where(IN_LINE).limit(1))
            return found.first() is not None

    def ticket(self, ticket_id: str) -> Ticket | None:
        """One ticket, ended or not; None where it is not known."""
        with self._transaction(write=False) as connection:
            row = connection.execute(sa.select(tickets).where(tickets.c.id == ticket_id)).first()
            return ticket_of(row) if row else None

    def last_ticket_of(self, holder: Holder) -> Ticket | None:
        """The newest ticket of a holder, also when it has ended; None where they never had one."""
        with self._transaction(write=False) as connection:
            row = connection.execute(
                sa.select(tickets)
                .where(tickets.c.user == holder.user, tickets.c.server == holder.server)
                .order_by(tickets.c.created.desc())
                .limit(1)
            ).first()
            return ticket_of(row) if row else None

    def ended_tickets_of(self, user: str, now: datetime) -> tuple[tuple[Ticket, datetime], ...]:
        """A person's tickets that failed or that somebody else cancelled, with the moment, the newest first.

        Those of the last day that they have not read yet. One whose lab waits again or runs is not among them.
        """
        with self._transaction(write=False) as connection:
            read = connection.execute(sa.select(notes.c.at).where(notes.c.kind == _READ, notes.c.subject == user)).scalar()
            since = max(naive(now - SHOWN_ENDED), read) if read else naive(now - SHOWN_ENDED)
            rows = connection.execute(_ENDED, {"user": user, "since": since}).all()
            again = {ticket.holder for ticket in live_tickets_of(connection, user)} if rows else set()
            again |= {lease.holder for lease in active_of(connection, user)} if rows else set()
            found = [(ticket_of(row), aware(row.ended)) for row in rows]
            return tuple((ticket, ended) for ticket, ended in found if ticket.holder not in again)

    def read_ended_tickets(self, user: str, now: datetime) -> None:
        """Forget what a person has read about their tickets' ends."""
        with self._transaction() as connection:
            connection.execute(notes.delete().where(notes.c.kind == _READ, notes.c.subject == user))
            connection.execute(notes.insert().values(kind=_READ, subject=user, at=naive(now), body=""))

    def cancel_ticket(self, ticket_id: str, now: datetime, actor: str, why: str = "") -> bool:
        """End a ticket that waits or has a claim; its claim is given back at once. Whether there was one to end."""
        with self._transaction() as connection:
            return cancel(connection, tickets.c.id == ticket_id, now, actor, why, self.half_life) > 0

    def cancel_tickets_of(self, holder: Holder, now: datetime, actor: str, why: str = "") -> bool:
        """End the holder's ticket, whatever it has come to, so that no start of it is tried again."""
        with self._transaction() as connection:
            mine = sa.and_(tickets.c.user == holder.user, tickets.c.server == holder.server)
            return cancel(connection, mine, now, actor, why, self.half_life, starting=True) > 0

    def move_ticket(self, ticket_id: str, ahead: int, now: datetime, actor: str) -> bool:
        """Put a waiting ticket before (positive) or behind (negative) all others, or back in its place (0)."""
        with self._transaction() as connection:
            result = connection.execute(
                tickets.update()
                .where(tickets.c.id == ticket_id, tickets.c.state == TicketState.WAITING.value)
                .values(ahead=max(-1, min(1, ahead)))
            )
            if result.rowcount:
                row = connection.execute(sa.select(tickets).where(tickets.c.id == ticket_id)).one()
                detail = {"ahead": ahead}
                write_event(
                    connection, now, actor, "ticket.moved", user=row.user, server=row.server, subject=ticket_id, detail=detail
                )
            return bool(result.rowcount)

    def renew_claims(self, until: datetime) -> None:
        """Give every claim its full time again: while the hub was away nobody could use it."""
        with self._transaction() as connection:
            connection.execute(
                tickets.update().where(tickets.c.state == TicketState.CLAIMED.value).values(claim_until=naive(until))
            )


def live_tickets(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> tuple[Ticket, ...]:
    """Tickets that still count and meet the conditions, oldest first, inside a transaction."""
    return tuple(ticket_of(row) for row in connection.execute(_IN_LINE.where(*where) if where else _IN_LINE))


def live_tickets_of(connection: sa.Connection, user: str) -> tuple[Ticket, ...]:
    """A person's tickets that still count, oldest first, inside a transaction."""
    return tuple(ticket_of(row) for row in connection.execute(_IN_LINE_OF_USER, {"user": user}))


def require_budget(connection: sa.Connection, user: str, now: datetime) -> None:
    """Let a person make one more ticket, inside a transaction.

    Raises:
        DeniedError: they have made too many in the last hour.
    """
    made = connection.execute(_LATELY, {"user": user, "since": naive(now - timedelta(hours=1))}).scalar() or 0
    if made >= MOST_TICKETS:
        raise DeniedError(
            f"You have made {made} tickets in the last hour; {MOST_TICKETS} are the most.",
            "Keep a ticket that waits, or try again later.",
        )


def cancel(
    connection: sa.Connection,
    where: sa.ColumnElement[bool],
    now: datetime,
    actor: str,
    why: str,
    half_life: timedelta,
    *,
    starting: bool = False,
) -> int:
    """End the tickets that meet the condition, inside a transaction; how many."""
    found = live_tickets(connection, where)
    ended = 0
    for ticket in found:
        if ticket.state is TicketState.STARTING and not starting:
            continue
        connection.execute(
            tickets.update()
            .where(tickets.c.id == ticket.id)
            .values(state=TicketState.CANCELLED.value, ended=naive(now), why=why[:1000], claim_until=None)
        )
        holder = ticket.holder
        write_event(
            connection, now, actor, "ticket.cancelled", user=holder.user, server=holder.server, subject=ticket.id,
            detail={"why": why},
        )  # fmt: skip
        if ticket.state is TicketState.CLAIMED:
            release(connection, ticket.lease, now, "the ticket was cancelled", half_life)
        ended += 1
    return ended

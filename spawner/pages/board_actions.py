"""What is done on the board: drain and return GPUs, move and cancel tickets, end a lease with a message, maintenance.

Owns reading these requests once, and who may send them. Never changes a lease itself: a lab ends the way its owner would end it,
through JupyterHub's own stop, and the ledger follows.

    POST   /hub/api/gpus/marks                {"subject", "reason"}     take a GPU or a node out of use
    DELETE /hub/api/gpus/marks/SUBJECT                                  bring it back
    POST   /hub/api/gpus/tickets/ID/move      {"ahead": -1 | 0 | 1}     to the back, in its place, to the front
    DELETE /hub/api/gpus/tickets/ID                                     cancel; also the owner's
    POST   /hub/api/gpus/leases/ID/end        {"message"}               end a lab; its owner reads the message
    PUT    /hub/api/gpus/maintenance          {"message", "deadline"?}  no new starts
    DELETE /hub/api/gpus/maintenance                                    starts again
"""

from __future__ import annotations

import asyncio
import json
import unicodedata
from datetime import datetime, timedelta
from typing import Any

from tornado import web

from spawner.model import Lease, LeaseState
from spawner.pages.board_handlers import ADMIN_SCOPE, BoardApiHandler
from spawner.pages.board_views import MaintenanceView, OutOfUse
from spawner.records import Event, GpuMark, Maintenance, MarkKind

LONGEST_TEXT = 500
LONGEST_BODY = 16_384
LONGEST_MAINTENANCE = timedelta(days=60)
Fields = dict[str, Any]


class ActionHandler(BoardApiHandler):
    """Base of what changes something."""

    def require(self, scope: str) -> None:
        """Let nobody on without this scope."""
        if not self.has_scope(scope):
            raise web.HTTPError(403, f"This is for admins: it needs the scope {scope}.")

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Fields:
        """The body: a JSON object with exactly these fields."""
        names = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
        rule = f"The body is a JSON object with {names}."
        if len(self.request.body) > LONGEST_BODY:
            raise web.HTTPError(400, f"The body has more than {LONGEST_BODY} bytes.")
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise web.HTTPError(400, rule) from None
        if not isinstance(body, dict) or not set(required) <= set(body) <= {*required, *optional}:
            raise web.HTTPError(400, rule)
        return body

    @property
    def actor(self) -> str:
        """Who acts, for the journal."""
        return str(self.current_user.name)


class MarksHandler(ActionHandler):
    """Take a GPU or node out of use."""

    async def post(self) -> None:
        """Drain: who holds it keeps it, nobody new gets it."""
        self.require(ADMIN_SCOPE)
        body = self.fields(("subject", "reason"))
        subject, reason = text(body["subject"], "subject"), text(body["reason"], "reason")
        rows = (await self.feed.now()).view.rows
        # A seat is a part of its device, and is drained with it.
        subject = next((row.device for row in rows if row.id == subject), subject)
        if not any(subject in (row.device, row.node) for row in rows):
            raise web.HTTPError(404, "This lab has no GPU of that UUID and no node of that name.")
        mark = GpuMark(subject, MarkKind.DRAINED, reason, self.actor, self.feed.lab.clock())
        await self.feed.write(self.feed.lab.ledger.mark, mark)
        self.log.info("%s drained %s: %s", self.actor, subject, reason)
        self.answer(OutOfUse(mark.kind.value, reason, mark.since, mark.by, subject).seen(self.viewer()), 201)


class MarkHandler(ActionHandler):
    """Bring a GPU or node back."""

    async def delete(self, subject: str) -> None:
        """Take all marks away, whether an admin or the lab itself made them."""
        self.require(ADMIN_SCOPE)
        lab = self.feed.lab
        if not await self.feed.write(lab.ledger.unmark, subject, self.actor, lab.clock()):
            raise web.HTTPError(404, "Nothing of that name is out of use.")
        self.log.info("%s brought %s back", self.actor, subject)
        self.answer({"subject": subject})


class MoveHandler(ActionHandler):
    """Move a ticket."""

    async def post(self, ticket_id: str) -> None:
        """To the front of its line (1), to the back (-1), or back in its place (0)."""
        self.require(ADMIN_SCOPE)
        ahead = self.fields(("ahead",))["ahead"]
        if type(ahead) is not int or ahead not in (-1, 0, 1):
            raise web.HTTPError(400, "ahead is -1, 0 or 1.")
        lab = self.feed.lab
        if not await self.feed.write(lab.ledger.move_ticket, ticket_id, ahead, lab.clock(), self.actor):
            raise web.HTTPError(404, "No ticket of that id waits in line.")
        self.log.info("%s moved ticket %s: %d", self.actor, ticket_id, ahead)
        self.answer({"id": ticket_id, "ahead": ahead})


class TicketHandler(ActionHandler):
    """Cancel a ticket."""

    async def delete(self, ticket_id: str) -> None:
        """By its owner, or by an admin; GPUs that were kept for it are free at once."""
        lab = self.feed.lab
        ticket = await self.feed.write(lab.ledger.ticket, ticket_id)
        # The same answer for one that is not there and one that is not theirs: an id tells nothing.
        if ticket is None or not self.has_scope(f"delete:servers!user={ticket.holder.user}"):
            raise web.HTTPError(404, "There is no ticket of that id, or it is not yours.")
        mine = self.viewer().is_me(ticket.holder)
        why = "" if mine else "An admin took the request out of the line."
        if not await self.feed.write(lab.ledger.cancel_ticket, ticket_id, lab.clock(), self.actor, why):
            raise web.HTTPError(409, "The ticket does not wait any more: its lab is starting, or it has ended.")
        self.log.info("%s cancelled ticket %s of %s", self.actor, ticket_id, ticket.holder)
        self.answer({"id": ticket_id})


class EndHandler(ActionHandler):
    """End a lease with a message."""

    async def post(self, lease_id: str) -> None:
        """Stop the lab as its owner would; the message is what they read afterwards."""
        self.require(ADMIN_SCOPE)
        message = text(self.fields(("message",))["message"], "message")
        lab = self.feed.lab
        lease = await self.feed.write(lab.ledger.lease, lease_id)
        if lease is None or lease.state is LeaseState.RELEASED:
            raise web.HTTPError(404, "No lab has a lease of that id now.")
        self.require(f"delete:servers!user={lease.holder.user}")
        if lease.state is LeaseState.CLAIMED:
            raise web.HTTPError(409, "These GPUs are kept for a ticket; cancel the ticket instead.")
        user, spawner = self._spawner(lease)
        ending = f"An admin ended this lab: {message}"
        await self.feed.write(lab.ledger.note_ending, lease_id, ending)
        event = Event(
            lab.clock(), self.actor, "lease.ended", lease.holder.user, lease.holder.server, lease_id, lease.gpus, {"why": message}
        )
        await self.feed.write(lab.ledger.record, event)
        self.log.info("%s ends the lab of %s: %s", self.actor, lease.holder, message)
        await self._stop(user, spawner)
        self.answer({"id": lease_id, "stopping": bool(spawner._stop_pending)}, 202 if spawner._stop_pending else 200)

    def _spawner(self, lease: Lease) -> tuple[Any, Any]:
        user = self.find_user(lease.holder.user)
        spawner = user.spawners[lease.holder.server] if user and lease.holder.server in user.orm_spawners else None
        if spawner is None or not spawner.active or lease.state is LeaseState.DRAINING or spawner.pending == "stop":
            raise web.HTTPError(409, "The lab is ending already; its GPUs are free as soon as its container is gone.")
        return user, spawner

    async def _stop(self, user: Any, spawner: Any) -> None:
        if spawner.pending:
            # As JupyterHub's own API interrupts a start.
            if spawner._spawn_future:
                spawner._spawn_future.cancel()
            await asyncio.sleep(1)
        if spawner.active and not spawner.pending:
            await self.stop_single_user(user, spawner.name)


class MaintenanceHandler(ActionHandler):
    """No new starts."""

    async def put(self) -> None:
        """Begin maintenance, or change its message; labs that run go on."""
        self.require(ADMIN_SCOPE)
        body = self.fields(("message",), ("deadline",))
        now = self.feed.lab.clock()
        deadline = moment(body["deadline"], now) if body.get("deadline") is not None else None
        maintenance = Maintenance(now, text(body["message"], "message"), self.actor, deadline)
        await self.feed.write(self.feed.lab.ledger.set_maintenance, maintenance, self.actor, now)
        self.log.info("%s began maintenance: %s", self.actor, maintenance.message)
        self.answer(MaintenanceView(now, maintenance.message, self.actor, deadline).seen(self.viewer()))

    async def delete(self) -> None:
        """End it; ending it twice is no error."""
        self.require(ADMIN_SCOPE)
        lab = self.feed.lab
        if await self.feed.write(lab.ledger.maintenance) is not None:
            await self.feed.write(lab.ledger.set_maintenance, None, self.actor, lab.clock())
            self.log.info("%s ended maintenance", self.actor)
        self.answer({})


def text(value: object, name: str) -> str:
    """One line of text for people.

    Raises:
        HTTPError: it is no text, empty, or too long.
    """
    if not isinstance(value, str) or len(value) > 4 * LONGEST_TEXT:
        raise web.HTTPError(400, f"{name} is a text of 1 to {LONGEST_TEXT} characters.")
    # Line breaks, control characters and what turns the direction of writing have no place in a sentence on a board.
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in value)
    line = " ".join(plain.split())
    if not 1 <= len(line) <= LONGEST_TEXT:
        raise web.HTTPError(400, f"{name} is a text of 1 to {LONGEST_TEXT} characters.")
    return line


def moment(value: object, now: datetime) -> datetime:
    """A moment in the future, in ISO 8601 with a zone.

    Raises:
        HTTPError: it is not.
    """
    rule = f"deadline is a moment such as 2026-05-12T17:00:00+02:00, in the next {LONGEST_MAINTENANCE.days} days."
    if not isinstance(value, str) or len(value) > 40:
        raise web.HTTPError(400, rule)
    try:
        # Python before 3.11 does not know the Z that browsers write.
        found = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
        if found.tzinfo is None or not now <= found <= now + LONGEST_MAINTENANCE:
            raise ValueError
    except (ValueError, OverflowError):
        raise web.HTTPError(400, rule) from None
    return found

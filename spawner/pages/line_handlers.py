"""The page of the waiting line, and the same as JSON.

Owns reading these requests and writing their answers. Never shows a ticket to anybody but its owner.

    GET  /hub/line                  the person's page
    POST /hub/line                  form fields `_xsrf` and `cancel` (a ticket's id)
    GET  /hub/api/gpus/tickets      the person's tickets
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from tornado import web

from spawner.errors import LabError
from spawner.pages import line_state
from spawner.runtime import Lab, open_lab

T = TypeVar("T")
LAB_FILE = "gpulab_lab_file"
_TICKET = re.compile(r"[0-9a-f]{32}")


def lab_of(handler: Any) -> Lab:
    """The opened lab of the hub that serves this request."""
    return open_lab(handler.settings[LAB_FILE])


async def off_loop(function: Callable[..., T], *args: Any, **more: Any) -> T:
    """Ask ledger, driver or engine without holding up the hub.

    Raises:
        web.HTTPError: with the sentence, where the lab raised a `LabError`.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: function(*args, **more))
    except LabError as error:
        raise Refused(error) from None


class Refused(web.HTTPError):
    """A refusal of the lab, with its sentence where JupyterHub's pages and JSON look for one."""

    def __init__(self, error: LabError) -> None:
        super().__init__(error.status_code)
        self.jupyterhub_message = error.message


def person(handler: Any) -> User:
    """The signed-in person.

    Raises:
        web.HTTPError: 403 where a service asks.
    """
    if handler.current_user is None:
        raise web.HTTPError(403, "Missing or invalid credentials.")
    if not isinstance(handler.current_user, User):
        raise web.HTTPError(403, "This is for people; a service has no place in line.")
    return handler.current_user


def groups_of(user: User) -> list[str]:
    """Names of a person's groups."""
    return sorted(group.name for group in user.groups)


def sees_names(handler: Any) -> bool:
    """Whether a person in line may know who holds the GPUs: admins, and everyone unless lab.yaml says otherwise."""
    return line_state.shows_holders(lab_of(handler).config) or bool(handler.has_scope("admin:servers"))


class LinePageHandler(BaseHandler):
    """The person's page of the line."""

    @web.authenticated
    async def get(self) -> None:
        """Show it."""
        user = person(self)
        view = await off_loop(line_state.line_view, lab_of(self), user.name, groups_of(user), names=sees_names(self))
        self.finish(await self.render_template("line.html", view=view, meanwhile_name=line_state.MEANWHILE))

    @web.authenticated
    async def post(self) -> None:
        """Cancel a ticket, and show the page again."""
        user = person(self)
        ticket_id = self.get_body_argument("cancel", "")
        lab = lab_of(self)
        ticket = await off_loop(lab.ledger.ticket, ticket_id) if _TICKET.fullmatch(ticket_id) else None
        if ticket is None or ticket.holder.user != user.name:
            raise web.HTTPError(404, "There is no such ticket of yours.")
        await off_loop(lab.ledger.cancel_ticket, ticket.id, lab.clock(), user.name)
        self.redirect(self.hub.base_url + "line")


class TicketsHandler(APIHandler):
    """The person's tickets."""

    async def get(self) -> None:
        """List them, the oldest first."""
        user = person(self)
        if not self.has_scope(f"read:servers!user={user.name}"):
            raise web.HTTPError(403, "This token may not read your labs.")
        view = await off_loop(line_state.line_view, lab_of(self), user.name, groups_of(user), names=sees_names(self))
        self.finish(json.dumps({"tickets": [ticket.as_json() for ticket in view.tickets]}))


HANDLERS: list[tuple[str, type]] = [
    (r"/line", LinePageHandler),
    (r"/api/gpus/tickets", TicketsHandler),
]

"""Refuses what would write into a full disk, in words, before anything of it is written.

Owns the check in front of JupyterHub's own sign-in, spawn and server requests. They write their visitor's activity into the
hub's database before any code of the lab is asked; on a disk without a free block that write fails and JupyterHub has
nothing to say about it. Never stands before a stop: ending a lab must work on a full disk too. It is part of the sign-in
because JupyterHub lets an authenticator's handlers alone come before its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from spawner.errors import LabError

RequireSpace = Callable[[], None]
SETTING = "gpulab_require_space"
# Ends the ticket of a lab that is stopped: called with the person's name, the lab's name, and who stops it.
ForgetTicket = Callable[[str, str, str], Awaitable[None]]
FORGET = "gpulab_forget_ticket"


class NeedsSpace:
    """Mix-in for a handler of the hub: asks for free space before it looks at the visitor.

    Reads the setting `gpulab_require_space`, a function that raises `LabError`; without it nothing is checked.
    """

    request: Any
    db: Any
    settings: dict[str, Any]

    async def prepare(self) -> None:
        """Refuse with 503 and the sentence.

        Raises:
            web.HTTPError: the disk is full.
        """
        require: RequireSpace | None = self.settings.get(SETTING)
        if require is not None and self.request.method != "DELETE":
            try:
                require()
            except LabError as error:
                raise _Refused(error) from None
        if not self.db.is_active:
            # All requests share one session. A write that failed elsewhere leaves it unusable, and JupyterHub would answer
            # the next visitor "invalid credentials" before it mends it.
            self.db.rollback()
        await super().prepare()  # type: ignore[misc]


class _Refused(web.HTTPError):
    def __init__(self, error: LabError) -> None:
        super().__init__(503)
        self.jupyterhub_message = error.message


class SpaceSpawnHandler(NeedsSpace, SpawnHandler):
    """JupyterHub's spawn page, behind the check; a start that became a ticket goes on to the page of the line."""

    async def _wrap_spawn_single_user(
        self, user: Any, server_name: str, display_name: str, spawner: Any, pending_url: str, options: Any = None
    ) -> None:
        try:
            await super()._wrap_spawn_single_user(user, server_name, display_name, spawner, pending_url, options)
        except web.HTTPError:
            if not getattr(spawner, "waits", False):
                raise
            self.redirect(self.hub.base_url + "line")


class StopsByName:
    """Mix-in for a handler of the hub: a lab that is stopped learns who stops it, for the journal."""

    current_user: Any

    async def stop_single_user(self, user: Any, server_name: str = "") -> Any:
        """Stop the lab. The lab's own services stop it in nobody's name."""
        spawner = user.spawners.get(server_name)
        if spawner is not None and not spawner.pending:
            who = self.current_user
            spawner.stopped_by = "lab" if who.kind == "service" and who.name.startswith("gpulab-") else who.name
        return await super().stop_single_user(user, server_name)  # type: ignore[misc]


class SpaceServerAPIHandler(StopsByName, NeedsSpace, UserServerAPIHandler):
    """JupyterHub's REST address of a server, behind the check; a stop also ends the ticket that waits for this lab."""

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop the lab, and forget its ticket first: a start from the line that is stopped would otherwise be tried again."""
        if forget := self.settings.get(FORGET):
            await forget(user_name, server_name, self.current_user.name)
        await super().delete(user_name, server_name)


HANDLERS: list[tuple[str, type]] = [
    (r"/spawn", SpaceSpawnHandler),
    (r"/spawn/([^/]+)", SpaceSpawnHandler),
    (r"/spawn/([^/]+)/([^/]+)", SpaceSpawnHandler),
    (r"/api/users/([^/]+)/server", SpaceServerAPIHandler),
    (r"/api/users/([^/]+)/servers/([^/]*)", SpaceServerAPIHandler),
]

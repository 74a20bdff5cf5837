"""Refuses what would write into a full disk, in words, before anything of it is written.

Owns the check in front of JupyterHub's own sign-in, spawn and server requests. They write their visitor's activity into the
hub's database before any code of the lab is asked; on a disk without a free block that write fails and JupyterHub has
nothing to say about it. Never stands before a stop: ending a lab must work on a full disk too. It is part of the sign-in
because JupyterHub lets an authenticator's handlers alone come before its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.pages import SpawnHandler
from tornado import web

from spawner.errors import LabError

RequireSpace = Callable[[], None]
SETTING = "gpulab_require_space"


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
    """JupyterHub's spawn page, behind the check."""


class SpaceServerAPIHandler(NeedsSpace, UserServerAPIHandler):
    """JupyterHub's REST address of a server, behind the check."""


HANDLERS: list[tuple[str, type]] = [
    (r"/spawn", SpaceSpawnHandler),
    (r"/spawn/([^/]+)", SpaceSpawnHandler),
    (r"/spawn/([^/]+)/([^/]+)", SpaceSpawnHandler),
    (r"/api/users/([^/]+)/server", SpaceServerAPIHandler),
    (r"/api/users/([^/]+)/servers/([^/]*)", SpaceServerAPIHandler),
]

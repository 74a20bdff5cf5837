"""The two doors of the sign-in: the login page's form, and the REST address that `gpulab token` uses.

Owns reading these requests and writing their answers. Never decides whether a token is good (`token` and `rules` do).

    POST   /hub/login                       form fields `_xsrf` and `token`
    POST   /hub/api/gpulab/sign-in/NAME     {"admin": bool, "one_time": bool, "expires_in": seconds} -> a token
    DELETE /hub/api/gpulab/sign-in/NAME     takes all of the person's tokens and sessions away
"""

from __future__ import annotations

import functools
import json
import socket
from datetime import datetime, timedelta, timezone
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import SESSION_COOKIE_NAME
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.roles import assign_default_roles
from jupyterhub.utils import maybe_future
from tornado import web

from spawner.auth import DEFAULT_TOKEN_SECONDS, MAX_TOKEN_SECONDS, NAME_RULE, SIGN_IN_SCOPE, sessions
from spawner.auth.slowdown import client_address
from spawner.auth.space_guard import NeedsSpace

# No field of the form, nor the address to go to next, is ever longer; what is gets dropped, so that no page repeats it.
LONGEST_FIELD = 8192


class TokenLoginHandler(NeedsSpace, LoginHandler):
    """The login page: JupyterHub's, with one field for the token."""

    async def prepare(self) -> None:
        """Drop what is not text or too long before anything reads it; JupyterHub would quote it in its answer."""
        self.token_field = self.request.body_arguments.get("token", [b""])[-1]
        for arguments in (self.request.arguments, self.request.body_arguments, self.request.query_arguments):
            arguments.pop("token", None)
            for name, values in list(arguments.items()):
                arguments[name] = [value for value in values if _is_text(value)]
        await super().prepare()

    async def post(self) -> None:
        """Sign in, or show the form again with one sentence."""
        user = await self.login_user({"token": self.token_field})
        if user is None:
            # Only a name that JupyterHub itself refuses comes here; the authenticator raises for everything else.
            raise web.HTTPError(403, "Your name may not sign in here. Ask your admin.")
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))

    def begin_session(self, session_id: str, seconds: int) -> None:
        """Give the browser its session id, to be kept as long as the session lasts.

        JupyterHub's own cookie of that name ends with the browser, which would sign people out every evening.
        """
        self._session_id = session_id
        options: dict[str, Any] = {"domain": self.domain} if self.subdomain_host else {}
        expires = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        self._set_cookie(SESSION_COOKIE_NAME, session_id, encrypted=False, path=self.base_url, expires=expires, **options)

    def client_address(self) -> str:
        """Whose try this is, for `slowdown`."""
        context = getattr(self.request.connection, "context", None)
        peer = getattr(context, "_orig_remote_ip", None) or self.request.remote_ip or ""
        trusted: set[str] = getattr(context, "trusted_downstream", set())
        # The proxy runs on this host, but the engine's address translation decides which of the host's addresses it comes from.
        proxies = {self.hub.ip, peer} if _is_this_host(peer) else {self.hub.ip}
        return client_address(peer, self.request.headers.get("X-Forwarded-For", ""), proxies, trusted)


class SignInHandler(NeedsSpace, APIHandler):
    """Sign-in tokens of one person, for services with the scope `custom:gpulab:sign-in`."""

    async def prepare(self) -> None:
        """Let nobody in without the scope."""
        await super().prepare()
        if self.current_user is None or not self.has_scope(SIGN_IN_SCOPE):
            raise web.HTTPError(403, f"This needs the scope {SIGN_IN_SCOPE}.")

    async def post(self, name: str) -> None:
        """Hand out a token; makes the person first where there is none of that name."""
        wish = self._wish()
        # Before it is made lower case, which turns some letters of other scripts into plain ones.
        if not name.isascii() or not self.authenticator.validate_username(name := self.authenticator.normalize_username(name)):
            raise web.HTTPError(400, NAME_RULE)
        made = self.find_user(name) is None
        user = self.user_from_username(name)
        await maybe_future(self.authenticator.add_user(user))
        if wish["admin"] and not user.admin:
            user.admin = True
            assign_default_roles(self.db, entity=user)
            self.db.commit()
            self.log.info("%s made %s an admin", self.current_user.name, name)
        token = sessions.mint(user.orm_user, seconds=wish["expires_in"], one_time=wish["one_time"], by=self.current_user.name)
        self.log.info("%s made a sign-in token for %s", self.current_user.name, name)
        self.set_status(201)
        self.finish(json.dumps({"name": name, "token": token, "created": made, "admin": bool(user.admin), **wish}))

    def delete(self, name: str) -> None:
        """Take everything away that signs the person in."""
        user = self.find_user(self.authenticator.normalize_username(name))
        if user is None:
            raise web.HTTPError(404, "There is no person of that name.")
        running = sorted(server for server, spawner in user.spawners.items() if spawner.active)
        revoked = sessions.revoke_all(self.db, user.orm_user, running)
        self.log.info("%s took %d tokens and sessions of %s away", self.current_user.name, revoked, user.name)
        self.finish(json.dumps({"name": user.name, "revoked": revoked, "running": running}))

    def _wish(self) -> dict[str, Any]:
        body = self.get_json_body()
        known = {"admin": False, "one_time": False, "expires_in": DEFAULT_TOKEN_SECONDS}
        if body is not None and (not isinstance(body, dict) or not set(body) <= set(known)):
            raise web.HTTPError(400, f"The body is a JSON object with any of {', '.join(known)}.")
        wish = {**known, **(body or {})}
        if any(type(wish[key]) is not type(default) for key, default in known.items()):
            raise web.HTTPError(400, "admin and one_time are true or false; expires_in is a whole number of seconds.")
        if not 1 <= wish["expires_in"] <= MAX_TOKEN_SECONDS:
            raise web.HTTPError(400, f"expires_in is from 1 to {MAX_TOKEN_SECONDS} seconds.")
        return wish


@functools.lru_cache(maxsize=64)
def _is_this_host(address: str) -> bool:
    """Whether an address belongs to this host; a lab's container, with an address of its own, never does."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_text(value: bytes) -> bool:
    if len(value) > LONGEST_FIELD:
        return False
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

"""Sign-in by token: JupyterHub's own API tokens, typed into one field.

Owns the way from the field to a person. Never makes a person, never gives a right (what a person may do stands in their
record), never logs or repeats a token.

What the login page must do: post a form to `{{ authenticator_login_url }}` with the hidden field `_xsrf` (`{{ xsrf }}`)
and the field `token`; no user name. When the page is shown again, `{{ login_error }}` holds one plain sentence, to be
escaped. The answer is then 403, or 429 when too many wrong tokens were tried.

The same token is a bearer token of the REST API; that is JupyterHub's doing. Wrong bearers are not slowed down here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from jupyterhub import orm
from jupyterhub.auth import Authenticator
from tornado import web
from tornado.log import app_log
from traitlets import Instance, default

from spawner.auth import SIGN_IN_PATH, rules, sessions, space_guard
from spawner.auth.handlers import SignInHandler, TokenLoginHandler
from spawner.auth.rules import Verdict
from spawner.auth.slowdown import SlowDown, TooManyTries

# JupyterHub asks `refresh_user` again when its last answer *for this person* is older than this. Any positive age would
# let an ended session pass in the shadow of the person's other browser; an answer is always older than -1 s.
EVERY_REQUEST = -1


class TokenAuthenticator(Authenticator):
    """Lets in who shows a live sign-in token of an existing person; nobody else."""

    slow_down = Instance(SlowDown, help="Counts wrong tokens and delays the next ones.")

    @default("slow_down")
    def _default_slow_down(self) -> SlowDown:
        return SlowDown(time.monotonic, asyncio.sleep)

    @default("auth_refresh_age")
    def _default_auth_refresh_age(self) -> int:
        return EVERY_REQUEST

    @default("auth_refresh_strict")
    def _default_auth_refresh_strict(self) -> bool:
        # Labs ask the hub about a visitor with the visitor's access token: it must fail with the visitor's session.
        return True

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """The login page, the door for `gpulab token`, and the check of free space before JupyterHub's own starts."""
        app_log.addFilter(_names_no_session)
        return [
            ("/login", TokenLoginHandler),
            (rf"/api/{SIGN_IN_PATH}/([^/]+)", SignInHandler),
            *space_guard.HANDLERS,
        ]

    def check_allow_config(self) -> None:
        """No allow list is missing: holding a live token is the permission."""

    def check_allowed(self, username: str, authentication: Any = None) -> bool:
        """Only what `authenticate` returned is allowed; there is no list to be on."""
        return authentication is not None

    async def authenticate(self, handler: Any, data: Any) -> dict[str, Any] | None:
        """Sign in with the form's token and open a session for this browser.

        Raises:
            web.HTTPError: 403 or 429, with the sentence for the person.
        """
        if not isinstance(handler, TokenLoginHandler):
            # JupyterHub asks here too for a REST call that brings credentials in its body. Tokens have their header.
            return None
        address = handler.client_address()
        try:
            await self.slow_down.admit(address)
        except TooManyTries as error:
            self.log.warning("Too many wrong tokens from %s", address)
            raise _TooMany(error) from None
        # No `await` between finding a one-time token and spending it.
        text = rules.readable(data["token"])
        token = orm.APIToken.find(handler.db, text) if text else None
        verdict = Verdict.EMPTY if text == "" else rules.judge(sessions.facts(token))
        if verdict in (Verdict.SIGN_IN, Verdict.ONE_TIME):
            if name := self._begin(handler, token, verdict):
                return {"name": name}
            verdict = Verdict.UNKNOWN
        if verdict is not Verdict.EMPTY:
            self.slow_down.failed(address)
        self.log.warning("No sign-in from %s: the token is %s", address, verdict.value)
        raise web.HTTPError(403, rules.refusal(verdict))

    async def refresh_user(self, user: Any, handler: Any = None) -> bool:
        """Whether the request at hand may go on as this person: its session must be live, and so must the session's token."""
        if handler is None:
            return True
        if not hasattr(handler, "_token_authenticated"):
            # JupyterHub 6.1 reads this after a refusal, but sets it for tokens only: a cookie would cost a traceback.
            handler._token_authenticated = False
        if handler._token_authenticated:
            # Tokens made by hand end by themselves. An access token to a lab ends with the session it came from.
            token = handler.get_token()
            made_by_hand = token is None or token.client_id == rules.HUB_CLIENT or not token.session_id
            return made_by_hand or sessions.live(handler.db, user.id, token.session_id)
        if handler._jupyterhub_user is not user:
            return True
        return sessions.live(handler.db, user.id, handler.get_session_cookie())

    def _begin(self, handler: TokenLoginHandler, token: Any, verdict: Verdict) -> str | None:
        name = str(token.user.name)
        # JupyterHub would go on with the normalized name, which may be another person's, or make a new one.
        if self.normalize_username(name) != name or not self.check_blocked_users(name):
            return None
        opened = sessions.open_session(handler.db, token, one_time=verdict is Verdict.ONE_TIME)
        if opened is None:
            return None
        handler.begin_session(*opened)
        return name


def _names_no_session(record: logging.LogRecord) -> bool:
    # JupyterHub writes the session id and the person's cookie id into its log with each new login page.
    return not str(record.msg).startswith("Setting new xsrf cookie")


class _TooMany(web.HTTPError):
    def __init__(self, error: TooManyTries) -> None:
        super().__init__(error.status_code, error.message)
        # JupyterHub copies these onto the answer.
        self.headers = {"Retry-After": str(error.retry_after)}

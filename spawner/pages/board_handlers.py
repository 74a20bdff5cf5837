"""The addresses of the board: the page, its JSON and its stream of events.

Owns who counts as which viewer, and the shape of the answers. Never reads the ledger itself (`board_feed` does, in its thread)
and changes nothing (`board_actions` does).

    GET /hub/gpus                    the page
    GET /hub/api/gpus                the same as JSON
    GET /hub/api/gpus/line           the waiting line
    GET /hub/api/gpus/history        the last 24 hours
    GET /hub/api/gpus/events         server-sent events: `board`, then `change` and `load`
    GET /hub/api/gpus/openapi.json   the description of all of it
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import yaml
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers import BaseHandler
from tornado import web
from tornado.iostream import StreamClosedError

from spawner import policy
from spawner.errors import LabError
from spawner.pages import board_history
from spawner.pages.board_feed import Feed, feed_of
from spawner.pages.board_shown import LINE_SHOWN
from spawner.pages.line_handlers import LAB_FILE, Refused
from spawner.pages.viewer import Json, Viewer

ADMIN_SCOPE = "admin:servers"
HEARTBEAT_SECONDS = 15.0
# A stream ends after this time and is taken up again, so that who has logged out or lost a right does not go on watching.
STREAM_SECONDS = 180.0
DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.yaml"
MOST_TICKETS = 1000


class ViewerMixin:
    """What the board's handlers have in common."""

    current_user: Any
    has_scope: Any
    settings: Any

    @property
    def feed(self) -> Feed:
        """The hub's one feed."""
        return feed_of(self.settings[LAB_FILE])

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Log a refusal of the lab as one line: it is an answer and no fault of the hub."""
        if isinstance(value, LabError):
            value = Refused(value)
        super().log_exception(type(value) if isinstance(value, Refused) else kind, value, trace)  # type: ignore[misc]

    def send_error(self, status_code: int = 500, **more: Any) -> None:
        """Answer a refusal of the lab with its own status and sentence."""
        error = more.get("exc_info", (None, None, None))[1]
        if isinstance(error, LabError):
            status_code, more["exc_info"] = error.status_code, (Refused, Refused(error), None)
        super().send_error(status_code, **more)  # type: ignore[misc]

    def viewer(self) -> Viewer:
        """Who is looking, and what they may see.

        An unfiltered `admin:servers` sees everyone. A person sees their own with a token that may read their servers; any other
        token, such as the one inside a lab, sees the counts.
        """
        user = self.current_user
        acts = bool(self.has_scope(ADMIN_SCOPE))
        name = user.name if getattr(user, "kind", "") == "user" else ""
        if name and not self.has_scope(f"read:servers!user={name}"):
            name = ""
        config = self.feed.lab.config
        groups = frozenset(group.name for group in user.groups) if name else frozenset()
        hidden = () if acts else (key for key in config.profiles if not policy.may_see_profile(config.policy, key, name, groups))
        return Viewer(name, names=acts or config.board.names_for_everyone, acts=acts, hidden=frozenset(hidden))


class BoardPageHandler(ViewerMixin, BaseHandler):
    """The page."""

    @web.authenticated
    async def get(self) -> None:
        """Draw the board as it is now; its script keeps it so."""
        shown = await self.feed.now()
        try:
            tallies = await self.feed.history()
        except LabError:
            tallies = ()
        viewer = self.viewer()
        picture = board_history.picture(tallies, shown.view.at)
        html = await self.render_template("gpus.html", board=shown.board(viewer), viewer=viewer, history=picture)
        self.finish(html)


class BoardApiHandler(ViewerMixin, APIHandler):
    """Base of what answers with JSON: anybody who is signed in may ask."""

    async def prepare(self) -> None:
        """Let nobody in who is not signed in."""
        await super().prepare()
        if self.current_user is None:
            raise web.HTTPError(403, "Sign in first, or send a token.")

    def answer(self, body: Any, status: int = 200) -> None:
        """Finish with JSON that nobody keeps."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))


class BoardHandler(BoardApiHandler):
    """All of the board."""

    async def get(self) -> None:
        """The board as it is now."""
        self.answer((await self.feed.now()).board(self.viewer()))


class LineHandler(BoardApiHandler):
    """The waiting line."""

    async def get(self) -> None:
        """The first tickets, and one's own."""
        shown = await self.feed.now()
        viewer = self.viewer()
        line = shown.line(viewer, _number(self.get_query_argument("limit", str(LINE_SHOWN))))
        at, waiting = shown.head(viewer)["at"], shown.view.line.waiting
        self.answer({"at": at, "waiting": waiting, "line": line, "profiles": shown.profiles(viewer)})


class HistoryHandler(BoardApiHandler):
    """The last 24 hours."""

    async def get(self) -> None:
        """The points, oldest first."""
        self.answer({"points": board_history.as_json(await self.feed.history())})


class DescriptionHandler(BoardApiHandler):
    """The description of these addresses."""

    async def get(self) -> None:
        """OpenAPI 3, as JSON."""
        if not DESCRIPTION.exists():
            raise web.HTTPError(404, "This installation has no docs/openapi.yaml.")
        self.answer(description())


class EventsHandler(BoardApiHandler):
    """The stream."""

    _gone = False
    _said = 0.0

    def on_connection_close(self) -> None:
        """The reader left; their place is free at once and not with the next word to them."""
        self._gone = True
        self.feed.wake()

    def get_content_type(self) -> str:
        """What a browser's EventSource asks for."""
        return "text/event-stream"

    async def get(self) -> None:
        """Send the board, and then what changes, until the reader leaves or the time is over."""
        user = self.current_user
        with self.feed.listening(f"{getattr(user, 'kind', '')}:{user.name}"):
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Accel-Buffering", "no")
            try:
                await self._stream(self.viewer())
            except StreamClosedError:
                return

    async def _stream(self, viewer: Viewer) -> None:
        ends = time.monotonic() + STREAM_SECONDS
        shown = await self.feed.now()
        # Taken up again after a second, should the connection break.
        await self._send("board", json.dumps(shown.board(viewer)), "retry: 1000\n")
        while not self._gone and (left := ends - time.monotonic()) > 0:
            quiet = HEARTBEAT_SECONDS - (time.monotonic() - self._said)
            later = await self.feed.after(shown, min(max(quiet, 0.0), left), lambda: self._gone)
            for event, text in (("change", later.change_text(viewer, shown)), ("load", later.load_text(shown))):
                if text:
                    await self._send(event, text)
            shown = later
            if time.monotonic() - self._said >= HEARTBEAT_SECONDS:
                # A connection that died without a word is noticed by the reader when this stays away.
                await self._send("tick", "{}")

    async def _send(self, event: str, text: str, more: str = "") -> None:
        self._said = time.monotonic()
        self.write(f"{more}event: {event}\ndata: {text}\n\n")
        await self.flush()


@functools.lru_cache(maxsize=1)
def description() -> Json:
    """`docs/openapi.yaml`, read."""
    found: Json = yaml.safe_load(DESCRIPTION.read_text("utf-8"))
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= MOST_TICKETS):
        raise web.HTTPError(400, f"limit is a whole number from 1 to {MOST_TICKETS}.")
    return int(text)

"""The pages of usage and of the journal, and the same as JSON and CSV.

Owns reading these requests and writing their answers. Who has `admin:servers` sees everybody, anybody else only themselves; the
journal is for the former alone. Never sums up itself, and asks the ledger off the event loop, for a bounded period.

    GET  /hub/usage             the page; `since`, `until`, `by`, `user`, and `format=csv` for a file
    GET  /hub/audit             the journal, paged; `since`, `user`, `gpu`, `before`
    GET  /hub/api/gpus/usage    `since`, `until`, `by`, `user`, `format` (json or csv)
    GET  /hub/api/gpus/audit    `since`, `until`, `user`, `gpu`, `before`, `limit`
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from tornado import web

from spawner import periods, present_events, sheets, usage
from spawner.errors import DeniedError, LabError, RequestError
from spawner.pages import usage_view
from spawner.pages.line_handlers import Refused, lab_of, off_loop, person
from spawner.records import Event
from spawner.runtime import Lab
from spawner.usage import Refusals, Report, Slice, Span, Spell, Waiting

# Longer periods are the command line's: a page must not keep the hub's processor busy.
MOST_DAYS = 92
PAGE = 100
MOST_EVENTS = 1000
ALL = "admin:servers"
# One question after the other: each reads a lot, and all readers share the hub's process.
_one_by_one = asyncio.Semaphore(1)


def gather(lab: Lab, span: Span, by: str, user: str) -> tuple[Report, tuple[Slice, ...]]:
    """Ask the ledger for a period, once.

    Raises:
        LedgerError: it does not answer.
    """
    try:
        seats = {unit.device: unit.seats for unit in lab.units() if unit.seats}
    except LabError:
        seats = {}  # counted as their numbers show; see usage.weight

    def sum_up(
        spells: Iterable[Spell], waiting: Sequence[Waiting], refusals: Sequence[Refusals]
    ) -> tuple[Report, tuple[Slice, ...]]:
        kept = list(spells)
        return usage.report(by, span, kept, waiting, refusals, seats), usage.slices(span, kept, seats)

    return lab.ledger.accounts(span, sum_up, user)


def require_asker(handler: Any) -> None:
    """Refuse a script without a valid token; a page would lead it to the login form instead.

    Raises:
        Refused: nobody is signed in.
    """
    if handler.current_user is None:
        raise Refused(DeniedError("There is no such token.", "Send one in the header: Authorization: token …"))


def sees_all(handler: Any) -> bool:
    """Whether the asker may see everybody's use."""
    return bool(handler.has_scope(ALL))


def asked_span(handler: Any, *, most: int = MOST_DAYS) -> Span:
    """The period of a request.

    Raises:
        Refused: it cannot be read, or is too long.
    """
    try:
        since, until = handler.get_argument("since", periods.DEFAULT), handler.get_argument("until", "")
        span = periods.span(since, until, lab_of(handler).clock())
        if span.until - span.since > timedelta(days=most, minutes=1):
            raise RequestError(
                f"A page looks back over {most} days at most.", "For more, an admin runs: gpulab usage --since 365d"
            )
    except LabError as error:
        raise Refused(error) from None
    return span


def asked_whose(handler: Any) -> str:
    """Whose usage is asked for; '' for everybody's.

    Raises:
        Refused: the asker may not see it.
    """
    wanted = str(handler.get_argument("user", ""))
    if sees_all(handler):
        return wanted
    asker = handler.current_user
    # A token that was made for something else does not open this.
    own = isinstance(asker, User) and handler.has_scope(f"read:servers!user={asker.name}")
    if not own or wanted not in ("", asker.name):
        raise Refused(DeniedError("Only admins see what others used.", "Ask without `user` for your own."))
    return str(asker.name)


def asked_by(handler: Any) -> str:
    """What the sums are to be for.

    Raises:
        Refused: there are no such sums.
    """
    by = str(handler.get_argument("by", "user" if sees_all(handler) else "profile"))
    if by not in usage.BY:
        raise Refused(RequestError(f"There are no sums by {by[:40]!a}.", f"Choose one of: {', '.join(usage.BY)}."))
    return by


def asked_number(handler: Any, name: str, default: int, most: int) -> int:
    """A whole number from 0.

    Raises:
        Refused: it is none.
    """
    text = str(handler.get_argument(name, "") or default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) <= most):
        raise Refused(RequestError(f"{name} is {text[:40]!a}.", f"Give a whole number, at most {most}."))
    return int(text)


async def answer(handler: Any) -> tuple[Report, tuple[Slice, ...]]:
    """What a request of usage asks for."""
    span, whose, by = asked_span(handler), asked_whose(handler), asked_by(handler)
    async with _one_by_one:
        return await off_loop(gather, lab_of(handler), span, by, whose)


async def answer_events(handler: Any, limit: int) -> tuple[Event, ...]:
    """What a request of the journal asks for.

    Raises:
        Refused: the asker is no admin.
    """
    if not sees_all(handler):
        raise Refused(DeniedError("The journal is for admins.", "Your own use stands on the page Usage."))
    span = asked_span(handler, most=366 * 100)
    who, gpu = str(handler.get_argument("user", ""))[:255], str(handler.get_argument("gpu", ""))[:64]
    before = asked_number(handler, "before", 0, 10**18)
    read = functools.partial(lab_of(handler).ledger.audit, since=span.since, until=span.until)
    return await off_loop(read, person=who, gpu=gpu, before=before, limit=limit)


def send_csv(handler: Any, report: Report) -> None:
    """Answer with a file for a spreadsheet."""
    name = f"usage-by-{report.by}-{report.span.since:%Y%m%d}-{report.span.end:%Y%m%d}.csv"
    handler.set_header("Content-Type", "text/csv; charset=utf-8")
    handler.set_header("Content-Disposition", f'attachment; filename="{name}"')
    handler.finish(sheets.as_csv(report))


class UsagePageHandler(BaseHandler):
    """The page of usage."""

    @web.authenticated
    async def get(self) -> None:
        """Show it, or send it as a file."""
        person(self)
        report, cuts = await answer(self)
        if self.get_argument("format", "") == "csv":
            send_csv(self, report)
            return
        view = usage_view.page(
            report,
            cuts,
            own=not sees_all(self),
            since=self.get_argument("since", periods.DEFAULT),
            until=self.get_argument("until", ""),
            person=self.get_argument("user", ""),
        )
        self.finish(await self.render_template("usage.html", view=view, kit=usage_view, sheets=sheets))


class AuditPageHandler(BaseHandler):
    """The journal, for admins."""

    @web.authenticated
    async def get(self) -> None:
        """Show a page of it, newest first."""
        person(self)
        found = await answer_events(self, PAGE + 1)
        asked = {name: self.get_argument(name, "") for name in ("since", "until", "user", "gpu")}
        asked["since"] = asked["since"] or periods.DEFAULT
        rows = [(event, present_events.cells(event)) for event in found[:PAGE]]
        older = found[PAGE - 1].number if len(found) > PAGE else 0
        first = not self.get_argument("before", "")
        self.finish(await self.render_template("audit.html", rows=rows, asked=asked, older=older, first=first))


class UsageHandler(APIHandler):
    """Usage, for scripts."""

    async def get(self) -> None:
        """Answer in JSON, or in CSV where asked."""
        require_asker(self)
        report, _ = await answer(self)
        if self.get_argument("format", "json") == "csv":
            send_csv(self, report)
            return
        self.finish(json.dumps(sheets.as_json(report)))


class AuditHandler(APIHandler):
    """The journal, for scripts of admins."""

    async def get(self) -> None:
        """Answer a page of it, newest first; `next` is the `before` of the page after, or null."""
        require_asker(self)
        limit = asked_number(self, "limit", PAGE, MOST_EVENTS) or PAGE
        found = await answer_events(self, limit + 1)
        events = [present_events.as_json(event) for event in found[:limit]]
        self.finish(json.dumps({"events": events, "next": found[limit - 1].number if len(found) > limit else None}))


HANDLERS: list[tuple[str, type]] = [
    (r"/usage", UsagePageHandler),
    (r"/audit", AuditPageHandler),
    (r"/api/gpus/usage", UsageHandler),
    (r"/api/gpus/audit", AuditHandler),
]

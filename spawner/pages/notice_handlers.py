"""What a person is told about their labs: notices and warnings of running ones, why others ended, and why a ticket did.

Owns reading these requests and writing their answers. Never decides when somebody is warned (`reclaim` does), and tells nobody
about another's labs.

    GET  /hub/api/gpus/notices              the person's notices and endings
    POST /hub/api/gpus/leases/ID/extend     the lab is to go on; for whoever may stop it
    POST /hub/api/gpus/leases/ID/restart    the lab is to start again on its GPUs; for whoever may stop and start it
    POST /hub/api/gpus/endings/dismiss      the person has read why their labs ended
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from spawner import policy, reclaim
from spawner.errors import DeniedError, UnavailableError
from spawner.model import Lease, LeaseState
from spawner.pages import line_state
from spawner.pages.line_handlers import groups_of, lab_of, off_loop, person
from spawner.records import Event, Watch
from spawner.runtime import Lab
from spawner.told import TroubleKind

_LEASE = re.compile(r"[0-9a-f]{32}")
UNKNOWN = "There is no such lab of yours."


class NoticesHandler(APIHandler):
    """The person's notices and endings."""

    async def get(self) -> None:
        """List them."""
        user = person(self)
        whole = self.has_scope(f"read:servers!user={user.name}")
        # A lab shows its own notices, with a token for this lab alone.
        names = {name for name in user.spawners if self.has_scope(f"read:servers!server={user.name}/{name}")}
        if not whole and not names:
            raise web.HTTPError(403, "This token may not read your labs.")
        found = await off_loop(notices, lab_of(self), user.name)
        if not whole:
            found |= {key: [one for one in found[key] if one["server"] in names] for key in ("labs", "notices")}
            found["endings"] = []
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(found))


class DismissHandler(APIHandler):
    """The person has read why their labs ended."""

    async def post(self) -> None:
        """Show these endings no more."""
        user = person(self)
        if not self.has_scope(f"delete:servers!user={user.name}"):
            raise web.HTTPError(403, "This token may not change your labs.")
        lab = lab_of(self)
        await off_loop(lab.ledger.dismiss_endings, user.name)
        await off_loop(lab.ledger.read_ended_tickets, user.name, lab.clock())
        self.set_status(204)


class LeaseHandler(APIHandler):
    """What is done to one lab."""

    async def lease(self, lease_id: str, *scopes: str) -> Lease:
        """The lease of a lab that runs, for whoever has these rights over its holder's labs.

        Raises:
            web.HTTPError: 404 also where the lab is somebody else's, so that nobody learns of it.
        """
        lease = await off_loop(lab_of(self).ledger.lease, lease_id) if _LEASE.fullmatch(lease_id) else None
        if lease is None or not all(self.has_scope(f"{scope}!user={lease.holder.user}") for scope in scopes):
            raise web.HTTPError(404, UNKNOWN)
        if lease.state is not LeaseState.BOUND:
            raise web.HTTPError(409, "This lab does not run any more.")
        return lease


class ExtendHandler(LeaseHandler):
    """One press of *Extend*."""

    async def post(self, lease_id: str) -> None:
        """Let the lab go on, as far as lab.yaml allows."""
        lease = await self.lease(lease_id, "delete:servers")
        self.finish(json.dumps(await off_loop(extend, lab_of(self), lease, self.current_user.name)))


class RestartHandler(LeaseHandler):
    """A restart that keeps the GPUs."""

    async def post(self, lease_id: str) -> None:
        """Stop the lab; as soon as its container is gone, the same GPUs are a claim of the holder, and the line starts it."""
        lease = await self.lease(lease_id, "delete:servers", "start:servers")
        user = self.find_user(lease.holder.user)
        spawner = user.spawners.get(lease.holder.server) if user else None
        if user is None or spawner is None or not spawner.ready:
            raise web.HTTPError(409, "This lab is starting or ending already.")
        await off_loop(set_aside, lab_of(self), lease, groups_of(user), self.current_user.name)
        spawner.stopped_by = self.current_user.name
        await self.stop_single_user(user, lease.holder.server)
        self.set_status(202)


def notices(lab: Lab, user: str) -> dict[str, Any]:
    """What a person is told now.

    Raises:
        LabError: the ledger does not answer.
    """
    told = lab.ledger.told(user, lab.clock())
    maintenance = lab.ledger.maintenance()
    rules = lab.config.reclaim
    found = [
        {
            "lease": trouble.lease,
            "server": told.labs[trouble.lease].server,
            "cause": trouble.kind.value,
            "text": trouble.text,
            "warning": True,
            "stop_at": _second(trouble.stop_at),
            "extend_seconds": 0,
            "restart": trouble.kind is TroubleKind.LOST,
        }
        for trouble in told.troubles
    ]
    found += [
        {
            "lease": watch.lease,
            "server": told.labs[watch.lease].server,
            "cause": watch.cause,
            "text": watch.text,
            "warning": watch.warned is not None,
            "stop_at": _second(watch.stop_at),
            "extend_seconds": int(rules.extend.total_seconds()) if _may_extend(watch, lab) else 0,
            "restart": False,
        }
        for watch in told.watches
        # What was said before an admin turned reclaim off is not true any more.
        if watch.text and (rules.mode == "on" or watch.cause == "message")
    ]
    endings = [
        {"lease": ending.lease, "server": ending.holder.server, "at": _second(ending.at), "text": ending.text}
        for ending in told.endings
    ]
    endings += [
        {"lease": ticket.id, "server": ticket.holder.server, "at": _second(ended), "text": line_state.ended_text(ticket)}
        for ticket, ended in lab.ledger.ended_tickets_of(user, lab.clock())[:1]
    ]
    said = maintenance and {
        "text": maintenance.message or "The lab is being maintained; no lab starts now.",
        "deadline": _second(maintenance.deadline),
    }
    labs = [{"lease": lease, "server": holder.server, "ends": _second(told.ends[lease])} for lease, holder in told.labs.items()]
    return {"labs": labs, "notices": found, "endings": endings, "maintenance": said}


def extend(lab: Lab, lease: Lease, actor: str) -> dict[str, Any]:
    """Extend a lab by lab.yaml's rules; what is true then.

    Raises:
        LabError: it may not be extended any more, or the ledger does not answer.
    """
    now = lab.clock()
    watch = lab.ledger.watches().get(lease.id, Watch(lease.id))
    outcome = reclaim.extended(lease, watch, lab.config.reclaim, now)
    if isinstance(outcome, str):
        raise DeniedError(outcome, "Save your work; start it again when it has ended.")
    fresh, ends = outcome
    if not lab.ledger.rewatch([(watch, fresh)]):
        # A second press at the same moment, or the reclaimer's own step; a stop that began is seen by the next try.
        raise DeniedError("This lab was extended or warned at this very moment.", "Look again, and extend it then.")
    if ends is not None:
        lab.ledger.set_end(lease.id, ends, actor, now)
    else:
        # Who moved a stop is to be known as well; and boards look where the journal has news.
        who, detail = lease.holder, {"safe_until": _second(fresh.safe_until)}
        lab.ledger.record(Event(now, actor, "lease.extended", who.user, who.server, lease.id, lease.gpus, detail))
    left = lab.config.reclaim.extensions - fresh.extensions
    return {"safe_until": _second(fresh.safe_until), "ends": _second(ends or lease.ends), "extensions_left": left}


def set_aside(lab: Lab, lease: Lease, groups: Sequence[str], actor: str) -> None:
    """Note that a lab that has lost its GPUs is to start again where it was.

    Whoever could restart at will would keep the GPUs from those who wait; and a lab that may not start is not to be ended.

    Args:
        lab: the lab's parts.
        lease: of a lab that runs.
        groups: its holder's.
        actor: who wants it.

    Raises:
        UnavailableError: it has lost no GPUs.
        DeniedError: lab.yaml does not grant it any more, or its holder has used up their GPU-hours.
        MaintenanceError: no lab starts now.
        LabError: the ledger does not answer.
    """
    now = lab.clock()
    if (lease.id, TroubleKind.LOST) not in {(trouble.lease, trouble.kind) for trouble in lab.ledger.troubles()}:
        raise UnavailableError("This lab has its GPUs; only one that has lost them is restarted on them.", "Go on with it.")
    profile = lab.config.profiles.get(lease.profile)
    if profile is None:
        raise DeniedError("The profile of this lab does not exist any more.", "Stop it and choose another one.")
    request = profile.request(len(lease.gpus))
    policy.admit(lab.config, groups)(request, lease.holder, lab.ledger.standing(lease.holder, now))
    lab.ledger.restart_after(lease, request, (lab.new_id(), lab.new_id()), lab.config.line.claim, actor, now)


def _may_extend(watch: Watch, lab: Lab) -> bool:
    return watch.cause in ("idle", "life") and watch.extensions < lab.config.reclaim.extensions


def _second(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


HANDLERS: list[tuple[str, type]] = [
    (r"/api/gpus/notices", NoticesHandler),
    (r"/api/gpus/leases/([^/]+)/extend", ExtendHandler),
    (r"/api/gpus/leases/([^/]+)/restart", RestartHandler),
    (r"/api/gpus/endings/dismiss", DismissHandler),
]

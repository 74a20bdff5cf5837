"""What a person who waits sees: their tickets, where each stands, and what could start now instead.

Owns the way from the ledger's line to the values of the page and of its JSON. Never decides whose turn it is (`line` does), and
shows nobody else's ticket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spawner import expect, policy, sharing
from spawner.errors import NoGpuFree
from spawner.ledger import Line
from spawner.line import Plan
from spawner.model import LabConfig, Lease, Profile
from spawner.pages import views
from spawner.records import Ticket, TicketState
from spawner.runtime import Lab

# The lab that a waiting person may start meanwhile has a name of its own, so that the one that waits keeps its.
MEANWHILE = "meanwhile"


@dataclass(frozen=True)
class Place:
    """Where a ticket stands.

    Attributes:
        number: from 1; 0 where it does not wait any more.
        length: how many wait.
        expected: when its turn is expected; None where that cannot be told.
        why: one sentence.
    """

    number: int
    length: int
    expected: datetime | None
    why: str
    now: datetime

    @property
    def expected_text(self) -> str:
        """The expected time for a person."""
        return f"expected {views.in_about(self.expected, self.now)}" if self.expected else "expected time unknown"


@dataclass(frozen=True)
class Offer:
    """A profile with fewer GPUs that could start now."""

    key: str
    title: str
    gpus: int


@dataclass(frozen=True)
class TicketView:
    """A person's ticket on their page."""

    ticket: Ticket
    title: str
    place: Place
    fewer: tuple[Offer, ...]
    claim_seconds: int

    @property
    def state(self) -> str:
        """waiting, claimed, starting, done, cancelled or failed."""
        return self.ticket.state.value

    @property
    def note(self) -> str:
        """What the person must know of what they wait for; may be empty."""
        return sharing.note_of_kind(self.ticket.request.sharing)

    @property
    def headline(self) -> str:
        """Where it stands, in words."""
        ended = {
            TicketState.CLAIMED: "Your turn: the lab is about to start",
            TicketState.STARTING: "Your turn: the lab is starting",
            TicketState.DONE: "The lab runs",
            TicketState.CANCELLED: "Cancelled",
            TicketState.FAILED: "The lab could not be started",
        }
        return ended.get(self.ticket.state) or f"Number {self.place.number} of {self.place.length} in line"

    def as_json(self) -> dict[str, object]:
        """For the page's script and for REST."""
        ticket, place = self.ticket, self.place
        return {
            "id": ticket.id,
            "server": ticket.holder.server,
            "profile": ticket.request.profile,
            "gpus": ticket.request.gpus,
            "state": self.state,
            "since": ticket.created.isoformat(timespec="seconds"),
            "position": place.number,
            "length": place.length,
            "expected": place.expected.isoformat(timespec="seconds") if place.expected else None,
            "expected_text": place.expected_text,
            "headline": self.headline,
            "why": place.why or ticket.why,
            "claim_seconds": self.claim_seconds,
            "fewer": [{"profile": offer.key, "title": offer.title, "gpus": offer.gpus} for offer in self.fewer],
        }


@dataclass(frozen=True)
class LineView:
    """A person's page of the line.

    Attributes:
        tickets: theirs, oldest first; also the one that ended last, where none waits.
        held: one row per holder of GPUs, with names unless lab.yaml keeps them from whoever waits.
        meanwhile: profile without a GPU to start meanwhile; None where there is none.
    """

    tickets: tuple[TicketView, ...]
    held: tuple[HeldGpus, ...]
    meanwhile: Offer | None
    now: datetime


@dataclass(frozen=True)
class HeldGpus:
    """What one holder holds.

    Attributes:
        who: the holder's name; `another lab` where the viewer may not know.
        gpus: how many.
        note: what whoever sees them must know; may be empty.
        since: since when.
        ends: end of its granted life; None where it has none.
        ending: about to be free.
    """

    who: str
    gpus: int
    note: str
    since: datetime
    ends: datetime | None
    ending: bool


def standing(lab: Lab, ticket: Ticket) -> Place:
    """Where a ticket stands in the line now."""
    now = lab.clock()
    line = lab.ledger.line(lab.units(), now)
    return _place(ticket, line, lab.plan(line), lab.ledger.held_seconds(), now)


def shows_holders(config: LabConfig) -> bool:
    """Whether a person who must wait is told who holds the GPUs, for there is somebody to talk to."""
    return config.line.show_holders or config.board.names_for_everyone


def line_view(lab: Lab, user: str, groups: Sequence[str], *, names: bool) -> LineView:
    """What a person sees of the line.

    Args:
        lab: the lab's parts.
        user: the person.
        groups: their groups.
        names: show everyone's names.

    Raises:
        LabError: ledger or driver do not answer.
    """
    now = lab.clock()
    line = lab.ledger.line(lab.units(), now)
    plan, history = lab.plan(line), lab.ledger.held_seconds()
    mine = lab.ledger.tickets_of(user)
    menu = lab.config.profiles
    shown = [
        TicketView(
            ticket=ticket,
            title=menu[ticket.request.profile].title if ticket.request.profile in menu else ticket.request.profile,
            place=_place(ticket, line, plan, history, now),
            fewer=_fewer(lab, ticket, line, user, groups) if ticket.state is TicketState.WAITING else (),
            claim_seconds=max(0, int((ticket.claim_until - now).total_seconds())) if ticket.claim_until else 0,
        )
        for ticket in mine
    ]
    return LineView(tuple(shown), _held(line.leases, user, names), _without_gpu(menu, lab, user, groups), now)


def _place(ticket: Ticket, line: Line, plan: Plan, history: Mapping[str, Sequence[float]], now: datetime) -> Place:
    ids = [waiting.id for waiting in plan.order]
    if ticket.id not in ids:
        return Place(0, len(ids), now, ticket.why, now)
    position = ids.index(ticket.id)
    expected = expect.turns(plan.order[: position + 1], line.gpus, line.leases, history, now)[ticket.id]
    return Place(position + 1, len(ids), expected, plan.why.get(ticket.id, ""), now)


def _fewer(lab: Lab, ticket: Ticket, line: Line, user: str, groups: Sequence[str]) -> tuple[Offer, ...]:
    if len(line.waiting) > 1:
        # Others wait too: what is free is theirs first, and a smaller request would stand behind them.
        return ()
    found = []
    for profile in lab.config.profiles.values():
        if not 0 < profile.gpus < ticket.request.gpus or not policy.may_see_profile(lab.config.policy, profile.key, user, groups):
            continue
        try:
            lab.place(profile.request(), line.gpus, line.leases)
        except NoGpuFree:
            continue
        found.append(Offer(profile.key, profile.title, profile.gpus))
    return tuple(sorted(found, key=lambda offer: -offer.gpus))


def _without_gpu(menu: Mapping[str, Profile], lab: Lab, user: str, groups: Sequence[str]) -> Offer | None:
    for profile in menu.values():
        if not profile.gpus and policy.may_see_profile(lab.config.policy, profile.key, user, groups):
            return Offer(profile.key, profile.title, 0)
    return None


def _held(leases: Sequence[Lease], user: str, names: bool) -> tuple[HeldGpus, ...]:
    return tuple(
        HeldGpus(
            who="you" if lease.holder.user == user else str(lease.holder) if names else "another lab",
            gpus=len(lease.gpus),
            note=sharing.note(lease.gpus),
            since=lease.created,
            ends=lease.ends,
            ending=lease.state.value == "draining",
        )
        for lease in leases
        if lease.gpus
    )

"""What a person who waits sees: their tickets, where each stands, and what could start now instead.

Owns the way from the ledger's line to the values of the page and of its JSON, and how often the line is planned for it. Never
decides whose turn it is (`line` does), and shows nobody else's ticket.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spawner import expect, policy, sharing
from spawner.errors import NoGpuFree
from spawner.ledger import Ledger, Line
from spawner.line import Plan
from spawner.model import LabConfig, Lease, Profile
from spawner.pages import views
from spawner.records import Ticket, TicketState
from spawner.runtime import Lab

# However many pages ask, the line is planned once per change of the ledger, at least so often, for times pass, and where it
# changes all the time at most so often that planning takes a tenth of one core.
LOOK_SECONDS = 5.0
LOOK_SHARE = 10.0
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
        """waiting, claimed or starting."""
        return self.ticket.state.value

    @property
    def note(self) -> str:
        """What the person must know of what they wait for; may be empty."""
        return sharing.note_of_kind(self.ticket.request.sharing)

    @property
    def headline(self) -> str:
        """Where it stands, in words."""
        called = {
            TicketState.CLAIMED: "Your turn: the lab is about to start",
            TicketState.STARTING: "Your turn: the lab is starting",
        }
        return called.get(self.ticket.state) or f"Number {self.place.number} of {self.place.length} in line"

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
        tickets: theirs that still count, oldest first.
        ended: what to say of the one that failed, or that somebody else cancelled, last; '' where there is none.
        held: one row per holder of GPUs, with names unless lab.yaml keeps them from whoever waits.
        meanwhile: profile without a GPU to start meanwhile; None where there is none.
    """

    tickets: tuple[TicketView, ...]
    held: tuple[HeldGpus, ...]
    meanwhile: Offer | None
    now: datetime
    ended: str = ""


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


@dataclass(frozen=True)
class Look:
    """The line as it was planned at one moment.

    Attributes:
        places: ticket id → its number, from 1.
        expected: ticket id → when its turn is expected; None, or no entry, where that cannot be told.
    """

    line: Line
    plan: Plan
    places: Mapping[str, int]
    expected: Mapping[str, datetime | None]


class Looks:
    """The last look at the line of each ledger, shared by all who ask; safe to use from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: weakref.WeakKeyDictionary[Ledger, tuple[int, float, float, Look]] = weakref.WeakKeyDictionary()

    def look(self, lab: Lab, fresh_for: Iterable[str] = ()) -> Look:
        """The line, planned anew only where it changed or time has passed.

        Args:
            lab: the lab's parts.
            fresh_for: ids of tickets that wait; a look without one of them is older than the ticket.

        Raises:
            LabError: ledger or driver do not answer.
        """
        # Under the lock: of many who ask at once one plans, and the others have its plan.
        with self._lock:
            version, now = lab.ledger.version(), time.monotonic()
            last = self._of.get(lab.ledger)
            if last is not None:
                seen, at, cost, look = last
                pause = LOOK_SHARE * cost
                recent = now - at < (max(LOOK_SECONDS, pause) if version == seen else pause)
                if recent and (version == seen or all(ticket_id in look.places for ticket_id in fresh_for)):
                    return look
            look = _planned(lab)
            done = time.monotonic()
            self._of[lab.ledger] = (version, done, done - now, look)
            return look


_looks = Looks()


def _planned(lab: Lab) -> Look:
    now = lab.clock()
    line = lab.ledger.line(lab.units(), now)
    plan = lab.plan(line)
    expected = expect.turns(plan.order[: expect.LOOK_AHEAD], line.gpus, line.leases, lab.ledger.held_seconds(), now)
    return Look(line, plan, {ticket.id: place for place, ticket in enumerate(plan.order, 1)}, expected)


def standing(lab: Lab, ticket: Ticket) -> Place:
    """Where a ticket stands in the line now."""
    return _place(ticket, _looks.look(lab, (ticket.id,)), lab.clock())


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
    mine = lab.ledger.tickets_of(user)
    look = _looks.look(lab, [ticket.id for ticket in mine if ticket.state is TicketState.WAITING])
    menu = lab.config.profiles
    shown = [
        TicketView(
            ticket=ticket,
            title=menu[ticket.request.profile].title if ticket.request.profile in menu else ticket.request.profile,
            place=_place(ticket, look, now),
            fewer=_fewer(lab, ticket, look.line, user, groups) if ticket.state is TicketState.WAITING else (),
            claim_seconds=max(0, int((ticket.claim_until - now).total_seconds())) if ticket.claim_until else 0,
        )
        for ticket in mine
    ]
    gone = [ended_text(ticket) for ticket, _ in lab.ledger.ended_tickets_of(user, now)[:1]]
    return LineView(tuple(shown), _held(look.line.leases, user, names), _without_gpu(menu, lab, user, groups), now, "".join(gone))


def ended_text(ticket: Ticket) -> str:
    """What a person reads of their ticket that failed or that somebody else cancelled."""
    lab = f"the lab “{ticket.holder.server}”" if ticket.holder.server else "your default lab"
    how = "failed" if ticket.state is TicketState.FAILED else "was cancelled"
    return f"Your ticket for {lab} {how}. {ticket.why}".strip()


def _place(ticket: Ticket, look: Look, now: datetime) -> Place:
    number, length = look.places.get(ticket.id) if ticket.state is TicketState.WAITING else None, len(look.places)
    if number is None:
        return Place(0, length, now, ticket.why, now)
    return Place(number, length, look.expected.get(ticket.id), look.plan.why.get(ticket.id, ""), now)


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

"""The waiting line: whose turn it is, why, and what a ticket may expect.

Owns the order of tickets, the rule that lets a small request pass a big one, and the expected time. Pure functions of what they
are given; never reads a clock, writes nothing, and admits nobody (policy's rule is handed in).

The order: a ticket that an admin moved, then tickets older than `line.overdue` by age, then by class, then by fair share (who
used fewer GPU-hours lately goes first), then by age. The first ticket that cannot be placed is the *head*; the first one that
waits for GPUs which the head could not use is a head too. A later one may pass only if no head starts later for it than the
moment that the known ends promise; what is not known counts as never. Nothing passes a ticket that is overdue.

The promise takes the ends of the labs that the head waits for as they stand, the earliest moment that anything speaks for: a
later one would let more pass. What holds on to GPUs is taken at its latest, with every *Extend* that `reclaim` allows; where
`reclaim.mode` is not `on` nobody ends a lab, so none has a latest end. A lab that its owner stops before its end breaks no
promise, but may find somebody on a GPU who passed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner import decay, sharing
from spawner.errors import LabError, NoGpuFree
from spawner.grants import LineRules, ReclaimRules
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState
from spawner.records import Grant, Ticket

# Tickets that are tried behind the head, and tickets whose own reason is looked for where nothing is free for them: the line
# would otherwise take longer the longer it is.
LOOK_BEHIND = 100
FIRST = "It is first in line, and waits for the next GPUs that will do."
FIRST_FOR_SUCH = "It is first in line for such GPUs, and waits for the next ones that will do."

Place = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]
Admit = Callable[[Ticket, Sequence[Lease]], Grant]


@dataclass(frozen=True, slots=True)
class Turn:
    """A ticket whose turn it is, the units it gets and what policy granted."""

    ticket: Ticket
    gpus: tuple[str, ...]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Plan:
    """What the line does now.

    Attributes:
        turns: tickets that get their GPUs.
        order: all tickets, first to last.
        why: ticket id → why it stands where it stands.
    """

    turns: tuple[Turn, ...]
    order: tuple[Ticket, ...]
    why: Mapping[str, str]


def fair_shares(ended: Mapping[str, float], leases: Iterable[Lease], now: datetime, half_life: timedelta) -> dict[str, float]:
    """Person → decayed GPU-seconds: those of ended leases, and those of the leases that go on."""
    shares = dict(ended)
    for lease in leases:
        used = decay.used(len(lease.gpus), lease.created, now, now, half_life)
        shares[lease.holder.user] = shares.get(lease.holder.user, 0.0) + used
    return shares


def order(tickets: Iterable[Ticket], shares: Mapping[str, float], now: datetime, rules: LineRules) -> tuple[Ticket, ...]:
    """The tickets, first to last."""

    def key(ticket: Ticket) -> tuple[object, ...]:
        overdue = now - ticket.created > rules.overdue
        share = 0.0 if overdue else shares.get(ticket.holder.user, 0.0)
        rank = 0 if overdue else -ticket.priority
        return (-ticket.ahead, not overdue, rank, share, ticket.created, ticket.id)

    return tuple(sorted(tickets, key=key))


def plan(
    tickets: Sequence[Ticket],
    gpus: Sequence[Gpu],
    leases: Sequence[Lease],
    shares: Mapping[str, float],
    now: datetime,
    rules: LineRules,
    reclaim: ReclaimRules,
    admit: Admit,
    place: Place,
) -> Plan:
    """Say whose turn it is.

    Args:
        tickets: those that wait.
        gpus: units in circulation.
        leases: all that are not released.
        shares: person → decayed GPU-seconds, see `fair_shares`.
        now: the present moment.
        rules: lab.yaml's `line`.
        reclaim: lab.yaml's `reclaim`, which says how far a life can be extended, and whether anybody ends it.
        admit: policy's rule for a ticket, with the turns that were given already; raises `LabError` when it may not have it now.
        place: chooses units; raises `NoGpuFree`.
    """
    ranked = order(tickets, shares, now, rules)
    this = _Round(gpus, leases, now, rules, reclaim, place)
    turns: list[Turn] = []
    why: dict[str, str] = {}
    for position, ticket in enumerate(ranked, 1):
        if position > LOOK_BEHIND and this.hopeless(ticket.request):
            why[ticket.id] = _place_in_line(position)
            continue
        try:
            grant = _admitted(ticket, this, admit)
        except LabError as error:
            why[ticket.id] = error.sentence
            continue
        chosen = this.choose(grant)
        if chosen is not None:
            this.give(ticket, grant, chosen)
            turns.append(Turn(ticket, chosen, grant))
        elif this.becomes_head(ticket):
            why[ticket.id] = FIRST_FOR_SUCH if len(this.heads) > 1 else FIRST
        else:
            why[ticket.id] = _place_in_line(position)
    return Plan(tuple(turns), ranked, why)


def _place_in_line(position: int) -> str:
    return f"It is number {position} in line, and no GPU that would do is free without delaying those before it."


def _admitted(ticket: Ticket, this: _Round, admit: Admit) -> Grant:
    if ticket.held_back_until is not None and this.now < ticket.held_back_until:
        raise LabError("Its last start did not succeed; it is tried again in a moment.")
    grant = admit(ticket, this.given)
    if not this.possible(grant.request):
        raise LabError("Too few GPUs that would do are in circulation; it keeps its place until there are enough.")
    return grant


_Shape = tuple[int, tuple[str, ...], int, str]


def _shape(request: GpuRequest) -> _Shape:
    return (request.gpus, request.gpu_models, request.gpu_memory_mib, request.sharing)


class _Round:
    """One look at the line: what was given so far, and the heads, which nothing given later may delay.

    There is a head for each kind of GPU that is waited for: the first ticket for one model does not speak for the first ticket
    for another, and without a head of its own a big request would be passed for as long as the other waits.
    """

    def __init__(
        self, gpus: Sequence[Gpu], leases: Sequence[Lease], now: datetime, rules: LineRules, reclaim: ReclaimRules, place: Place
    ) -> None:
        self.now = now
        self.given: list[Lease] = []
        self.heads: list[Ticket] = []
        self._gpus, self._leases, self._rules, self._reclaim, self._place = gpus, leases, rules, reclaim, place
        self._apart: Sequence[Gpu] = gpus  # what no head could use
        self._open: Sequence[Gpu] = gpus  # what no overdue ticket could use
        self._tries = 0
        # Within a round GPUs only become fewer: what could not be placed once need not be tried again.
        self._hopeless: set[_Shape] = set()
        self._not_apart: set[_Shape] = set()
        self._known: set[_Shape] = set()
        self._overdue: set[_Shape] = set()
        self._possible: dict[_Shape, bool] = {}
        self._before: dict[str, datetime | None] = {}

    def hopeless(self, request: GpuRequest) -> bool:
        """Whether nothing that would do is left in this round."""
        return _shape(request) in self._hopeless

    def possible(self, request: GpuRequest) -> bool:
        """Whether the GPUs in circulation would do if all were free."""
        shape = _shape(request)
        if shape not in self._possible:
            self._possible[shape] = sharing.most_on_one_node(self._gpus, request) >= request.gpus
        return self._possible[shape]

    def choose(self, grant: Grant) -> tuple[str, ...] | None:
        """The units that a ticket may have now; None where there are none, or where it would delay a head."""
        request, shape = grant.request, _shape(grant.request)
        if shape in self._hopeless:
            return None
        # First among the GPUs that no head could use anyhow.
        if shape not in self._not_apart:
            if (chosen := self._try(request, self._apart)) is not None:
                return chosen
            self._not_apart.add(shape)
        if self._tries >= LOOK_BEHIND:
            return None
        if (chosen := self._try(request, self._open)) is None:
            self._hopeless.add(shape)
            return None
        self._tries += 1
        passing = Lease("", Holder(""), "", chosen, LeaseState.CLAIMED, self.now, ends=self._ends(grant))
        return None if any(self._delays(head, passing) for head in self.heads) else chosen

    def give(self, ticket: Ticket, grant: Grant, chosen: tuple[str, ...]) -> None:
        """Count a turn as given."""
        profile = ticket.request.profile
        self.given.append(Lease(ticket.id, ticket.holder, profile, chosen, LeaseState.CLAIMED, self.now, ends=self._ends(grant)))
        self._before.clear()

    def becomes_head(self, ticket: Ticket) -> bool:
        """Make a ticket that cannot be placed a head, unless earlier ones speak for every GPU that it could use."""
        shape, overdue = _shape(ticket.request), self.now - ticket.created > self._rules.overdue
        if overdue and shape not in self._overdue:
            self._overdue.add(shape)
            self._open = [gpu for gpu in self._open if not sharing.suits(gpu, ticket.request)]
        if shape in self._known:
            return False
        self._known.add(shape)
        if not any(sharing.suits(gpu, ticket.request) for gpu in self._apart):
            return False
        self.heads.append(ticket)
        self._apart = [gpu for gpu in self._apart if not sharing.suits(gpu, ticket.request)]
        return True

    def _ends(self, grant: Grant) -> datetime | None:
        return None if grant.life is None else self.now + grant.life

    def _latest(self, lease: Lease) -> datetime | None:
        return latest_end(lease, self.now, self._rules, self._reclaim)

    def _delays(self, head: Ticket, passing: Lease) -> bool:
        units = set(passing.gpus)
        if not any(gpu.uuid in units and sharing.suits(gpu, head.request) for gpu in self._gpus):
            return False
        nodes = {gpu.node for gpu in self._gpus if gpu.uuid in units}
        if sharing.most_on_one_node([gpu for gpu in self._gpus if gpu.node in nodes], head.request) < head.request.gpus:
            return False
        held = [*self._leases, *self.given]
        if head.id not in self._before:
            self._before[head.id] = earliest(head.request, self._gpus, held, self.now)
        before, latest = self._before[head.id], self._latest(passing)
        if before is None:
            return True
        if latest is not None and latest <= before:
            return False
        # Still there at the promised moment: the head must do without its units, however late the others end.
        after = earliest(head.request, self._gpus, [*held, passing], self.now, self._latest)
        return after is None or after > before

    def _try(self, request: GpuRequest, gpus: Sequence[Gpu]) -> tuple[str, ...] | None:
        try:
            return self._place(request, gpus, [*self._leases, *self.given])
        except NoGpuFree:
            return None


def latest_end(lease: Lease, now: datetime, rules: LineRules, reclaim: ReclaimRules) -> datetime | None:
    """When a lab has ended at the latest: its life and all of its extensions; None where nobody ends it.

    Args:
        lease: that is not released.
        now: the present moment.
        rules: lab.yaml's `line`.
        reclaim: lab.yaml's `reclaim`.
    """
    if lease.ends is None or reclaim.mode != "on":
        return None
    # Nobody is stopped sooner than this after a warning, however short the life or the extension is.
    least = min(reclaim.grace, reclaim.life_warning)
    end = max(lease.ends, now + least) + reclaim.extensions * max(reclaim.extend, least)
    # A life begins when the claim is used, which may be at the end of the claim.
    return end + rules.claim if lease.state is LeaseState.CLAIMED else end


def earliest(
    request: GpuRequest,
    gpus: Sequence[Gpu],
    leases: Sequence[Lease],
    now: datetime,
    ends: Callable[[Lease], datetime | None] = lambda lease: lease.ends,
) -> datetime | None:
    """When enough suitable units of one node will be free, judged by the leases' ends; None when that is not known.

    Args:
        request: what is waited for.
        gpus: units in circulation.
        leases: all that are not released.
        now: the present moment; also the end of a lease that is draining or overdue.
        ends: when a lease ends; None where nobody knows.
    """
    held: list[tuple[str, datetime | None]] = []
    for lease in leases:
        end = now if lease.state is LeaseState.DRAINING else ends(lease)
        held.extend((uuid, None if end is None else max(end, now)) for uuid in lease.gpus)
    nodes = sharing.soonest([gpu for gpu in gpus if sharing.suits(gpu, request)], sharing.until(gpus, held, now))
    return min((units[request.gpus - 1][0] for units in nodes if len(units) >= request.gpus), default=None)

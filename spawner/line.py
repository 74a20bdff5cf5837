"""The waiting line: whose turn it is, why, and what a ticket may expect.

Owns the order of tickets, the rule that lets a small request pass a big one, and the expected time. Pure functions of what they
are given; never reads a clock, writes nothing, and admits nobody (policy's rule is handed in).

The order: a ticket that an admin moved, then tickets older than `line.overdue` by age, then by class, then by fair share (who
used fewer GPU-hours lately goes first), then by age. The first ticket that cannot be placed is the *head*. A later one may pass
only if the head could start no later than without it, judged by the ends that are known; what is not known counts as never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner import decay, sharing
from spawner.errors import LabError, NoGpuFree
from spawner.grants import LineRules
from spawner.model import Gpu, GpuRequest, Lease, LeaseState
from spawner.records import Grant, Ticket

# Tickets behind the head that are looked at; the line would otherwise take longer the longer it is.
LOOK_BEHIND = 100
FIRST = "It is first in line, and waits for the next GPUs that will do."

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
        admit: policy's rule for a ticket, with the turns that were given already; raises `LabError` when it may not have it now.
        place: chooses units; raises `NoGpuFree`.
    """
    ranked = order(tickets, shares, now, rules)
    held = list(leases)
    turns: list[Turn] = []
    why: dict[str, str] = {}
    head: Ticket | None = None
    behind = 0
    for position, ticket in enumerate(ranked, 1):
        if not sharing.free(gpus, (uuid for lease in held for uuid in lease.gpus)) or behind > LOOK_BEHIND:
            why.setdefault(ticket.id, _place_in_line(position))
            continue
        try:
            grant = _admitted(ticket, gpus, held[len(leases) :], now, admit)
        except LabError as error:
            why[ticket.id] = error.sentence
            continue
        chosen = _choose(grant, gpus, held, now, place, head, rules)
        if chosen is None:
            why[ticket.id] = _place_in_line(position) if head else FIRST
            head = head or ticket
            behind += 1
            continue
        turns.append(Turn(ticket, chosen, grant))
        ends = now + grant.life if grant.life is not None else None
        held.append(Lease(ticket.id, ticket.holder, ticket.request.profile, chosen, LeaseState.CLAIMED, now, ends=ends))
    return Plan(tuple(turns), ranked, why)


def _place_in_line(position: int) -> str:
    if position == 1:
        return FIRST
    return f"It is number {position} in line, and no GPU that would do is free without delaying those before it."


def _admitted(ticket: Ticket, gpus: Sequence[Gpu], given: Sequence[Lease], now: datetime, admit: Admit) -> Grant:
    if ticket.held_back_until is not None and now < ticket.held_back_until:
        raise LabError("Its last start did not succeed; it is tried again in a moment.")
    grant = admit(ticket, given)
    if _most_on_one_node(gpus, grant.request) < ticket.request.gpus:
        raise LabError("Too few GPUs that would do are in circulation; it keeps its place until there are enough.")
    return grant


def _most_on_one_node(gpus: Sequence[Gpu], request: GpuRequest) -> int:
    devices: dict[str, set[str]] = {}
    for gpu in gpus:
        if sharing.suits(gpu, request):
            devices.setdefault(gpu.node, set()).add(gpu.device)
    return max((len(found) for found in devices.values()), default=0)


def _choose(
    grant: Grant, gpus: Sequence[Gpu], held: Sequence[Lease], now: datetime, place: Place, head: Ticket | None, rules: LineRules
) -> tuple[str, ...] | None:
    if head is None:
        return _try(place, grant.request, gpus, held)
    # First among the GPUs that the head could not use anyhow.
    apart = [gpu for gpu in gpus if not sharing.suits(gpu, head.request)]
    if (chosen := _try(place, grant.request, apart, held)) is not None:
        return chosen
    if now - head.created > rules.overdue:
        return None
    chosen = _try(place, grant.request, gpus, held)
    if chosen is None:
        return None
    before = earliest(head.request, gpus, held, now)
    ends = now + grant.life if grant.life is not None else None
    passing = Lease("", head.holder, "", chosen, LeaseState.CLAIMED, now, ends=ends)
    after = earliest(head.request, gpus, [*held, passing], now)
    return chosen if before is not None and after is not None and after <= before else None


def _try(place: Place, request: GpuRequest, gpus: Sequence[Gpu], held: Sequence[Lease]) -> tuple[str, ...] | None:
    try:
        return place(request, gpus, held)
    except NoGpuFree:
        return None


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
    until: dict[str, datetime | None] = {}
    for lease in leases:
        end = now if lease.state is LeaseState.DRAINING else ends(lease)
        for uuid in lease.gpus:
            until[uuid] = None if end is None else max(end, now)
    nodes: dict[str, list[datetime]] = {}
    for gpu in gpus:
        if sharing.suits(gpu, request):
            moment = until.get(gpu.uuid, now)
            if moment is not None:
                nodes.setdefault(gpu.node, []).append(moment)
    times = [sorted(moments)[request.gpus - 1] for moments in nodes.values() if len(moments) >= request.gpus]
    return min(times, default=None)

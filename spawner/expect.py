"""When a ticket's turn may come, as honestly as can be told.

Owns the forecast: leases end when their granted life ends, or sooner where labs of the same profile used to; the line is played
forward on that. What cannot be told is None and never a guess. Pure functions; never reads a clock or a ledger.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from spawner import sharing
from spawner.model import Gpu, Lease, LeaseState
from spawner.records import Ticket

# Tickets further back than this are told "unknown": their forecast would be made of forecasts.
LOOK_AHEAD = 50
# Fewer ended labs than this say nothing about the next one.
LEAST_HISTORY = 3

History = Mapping[str, Sequence[float]]


def end_of(lease: Lease, history: History, now: datetime) -> datetime | None:
    """When a lease is expected to end; None where nobody knows.

    Args:
        lease: a lease that is not released.
        history: profile → seconds that ended labs held their GPUs, sorted.
        now: the present moment.
    """
    if lease.state is LeaseState.DRAINING:
        return now
    began = lease.bound or lease.created
    longer = _longer(history.get(lease.profile, ()), (now - began).total_seconds())
    ends = [] if lease.ends is None else [max(lease.ends, now)]
    if longer is not None:
        ends.append(began + timedelta(seconds=longer))
    return min(ends, default=None)


def turns(
    line: Sequence[Ticket], gpus: Sequence[Gpu], leases: Sequence[Lease], history: History, now: datetime
) -> dict[str, datetime | None]:
    """Ticket id → the moment at which its turn is expected; None where it cannot be told.

    Args:
        line: the tickets, first to last.
        gpus: units in circulation.
        leases: all that are not released.
        history: see `end_of`.
        now: the present moment.
    """
    held = [(uuid, end_of(lease, history, now)) for lease in leases for uuid in lease.gpus]
    until = sharing.until(gpus, held, now)
    expected: dict[str, datetime | None] = {}
    left: Sequence[Gpu] = gpus
    for position, ticket in enumerate(line):
        found = _soonest(ticket, left, until) if position < LOOK_AHEAD else None
        if found is None:
            expected[ticket.id] = None
            if sharing.most_on_one_node(gpus, ticket.request) >= ticket.request.gpus:
                # Nobody knows which of them it will take, and when: those behind it cannot count on any of them.
                left = [gpu for gpu in left if not sharing.suits(gpu, ticket.request)]
            continue
        moment, units = found
        expected[ticket.id] = moment
        lasts = _longer(history.get(ticket.request.profile, ()), 0.0)
        for uuid in units:
            until[uuid] = None if lasts is None else moment + timedelta(seconds=lasts)
    return expected


def wait_for(
    thought: Ticket, line: Sequence[Ticket], gpus: Sequence[Gpu], leases: Sequence[Lease], history: History, now: datetime
) -> datetime | None:
    """When a request that is only thought of would have its turn, behind everyone who waits; None where it cannot be told."""
    return turns([*line, thought], gpus, leases, history, now)[thought.id]


def _soonest(
    ticket: Ticket, gpus: Sequence[Gpu], until: Mapping[str, datetime | None]
) -> tuple[datetime, tuple[str, ...]] | None:
    wanted = ticket.request.gpus
    nodes = sharing.soonest([gpu for gpu in gpus if sharing.suits(gpu, ticket.request)], until)
    fitting = [units[:wanted] for units in nodes if len(units) >= wanted]
    if not fitting:
        return None
    best = min(fitting, key=lambda units: units[-1])
    return best[-1][0], tuple(uuid for _, uuid in best)


def _longer(seconds: Sequence[float], age: float) -> float | None:
    """The median of those that lasted longer than `age`; None where too few did."""
    rest = seconds[bisect_right(seconds, age) :]
    return rest[len(rest) // 2] if len(rest) >= LEAST_HISTORY else None

"""Who used how much: sums of GPU-hours, idle GPU-hours, waiting and refusals over a period.

Owns what a GPU-hour is here and how it is attributed. Pure functions of what they are given; never reads a ledger or a clock.

A GPU counts from the moment it was given, for a claim or a start, until it was released; a lease that goes on counts up to now,
and one that crosses a border of the period counts by what lies inside. A seat of a shared GPU counts as its share of a
GPU-hour, a MIG instance as a GPU of its own. Idle time is known per lease only, and taken as spread evenly over it: so a period
that is cut in two has the same sums as the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

BY = ("user", "group", "profile", "gpu")
NOBODY = ""
"""The key of what belongs to no group, or to no GPU."""
LEAST_SEATS = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A period: from `since`, up to but not including `until`; `now` is when it was asked."""

    since: datetime
    until: datetime
    now: datetime

    @property
    def end(self) -> datetime:
        """The last moment that can have any use: the end of the period, or now."""
        return min(self.until, self.now)


@dataclass(frozen=True, slots=True)
class Spell:
    """A lease, as far as accounting cares.

    Attributes:
        units: names of the leased units; empty for a lab without a GPU.
        ended: None while it goes on.
        idle: idle seconds, summed over its units.
        waited: seconds that its ticket waited for it; 0 where it did not wait.
    """

    user: str
    groups: tuple[str, ...]
    profile: str
    units: tuple[str, ...]
    began: datetime
    ended: datetime | None = None
    idle: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A ticket that waits now, and for how long it has."""

    user: str
    groups: tuple[str, ...]
    profile: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusals:
    """Requests of one kind that were refused within the period."""

    user: str
    groups: tuple[str, ...]
    profile: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """Sums of one person, group, profile or GPU; or of all.

    Attributes:
        key: which; '' for what belongs to no group or no GPU.
        gpu_seconds, idle_seconds: GPU-seconds; idle ones are part of the others.
        labs: leases that touched the period.
        waits: seconds waited by each whose turn came in the period, and only of those that waited; sorted.
        waiting: seconds waited so far by each that still waits; sorted.
        refused: reason → number of refused requests.
    """

    key: str
    gpu_seconds: float = 0.0
    idle_seconds: float = 0.0
    labs: int = 0
    waits: tuple[float, ...] = ()
    waiting: tuple[float, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def refusals(self) -> int:
        """Refused requests, for whatever reason."""
        return sum(self.refused.values())

    @property
    def idle_part(self) -> float:
        """Which part of the use was idle, from 0 to 1."""
        return self.idle_seconds / self.gpu_seconds if self.gpu_seconds else 0.0

    def as_json(self) -> dict[str, object]:
        """For REST and the command line: hours and seconds, rounded."""
        return {
            "key": self.key,
            "gpu_hours": round(self.gpu_seconds / 3600, 4),
            "idle_gpu_hours": round(self.idle_seconds / 3600, 4),
            "labs": self.labs,
            "waited": _spread(self.waits),
            "still_waiting": _spread(self.waiting),
            "refused": self.refusals,
            "refused_by_reason": dict(sorted(self.refused.items())),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Sums by one key: `rows` with the most use first, and `total`, in which everything counts once."""

    by: str
    span: Span
    rows: tuple[Row, ...]
    total: Row


@dataclass
class _Sum:
    gpu_seconds: float = 0.0
    idle_seconds: float = 0.0
    labs: int = 0
    waits: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)

    def row(self, key: str) -> Row:
        waits, waiting = tuple(sorted(self.waits)), tuple(sorted(self.waiting))
        return Row(key, self.gpu_seconds, self.idle_seconds, self.labs, waits, waiting, dict(self.refused))


def device_of(unit: str) -> str:
    """UUID of a unit's device: of a seat without the seat's number."""
    return unit.partition("#")[0]


def weight(unit: str, seats: Mapping[str, int]) -> float:
    """What an hour of a unit counts in GPU-hours.

    Args:
        unit: its name.
        seats: device UUID → its number of seats today. A seat of a device that is not shared any more counts as if there had
            been just as many seats as its number shows, at least two.
    """
    device, _, seat = unit.partition("#")
    if not seat:
        return 1.0
    shown = int(seat) + 1 if seat.isdecimal() else 1
    return 1.0 / max(LEAST_SEATS, seats.get(device, 0), shown)


def inside(spell: Spell, span: Span) -> float:
    """Seconds of a lease that lie within the period."""
    ended = span.now if spell.ended is None else spell.ended
    return max(0.0, (min(ended, span.end) - max(spell.began, span.since)).total_seconds())


def idle_part(spell: Spell, now: datetime) -> float:
    """Which part of a lease was idle, from 0 to 1; the units of one lease are not told apart."""
    length = ((now if spell.ended is None else spell.ended) - spell.began).total_seconds() * len(spell.units)
    return min(1.0, spell.idle / length) if length > 0 else 0.0


def report(
    by: str,
    span: Span,
    spells: Iterable[Spell],
    waiting: Iterable[Waiting] = (),
    refusals: Iterable[Refusals] = (),
    seats: Mapping[str, int] | None = None,
) -> Report:
    """Sum up a period.

    The rows of `user`, `profile` and `gpu` add up to the total. By `group` they may come to more: a person in two groups counts
    for each. Labs, waits and tickets of several GPUs count for each of their GPUs; a request that was refused, or still waits,
    has no GPU yet.

    Args:
        by: one of `BY`.
        span: the period.
        spells: leases that touch it; others do no harm.
        waiting: tickets that wait now; counted where the period lasts until now.
        refusals: refused requests of the period.
        seats: device UUID → number of seats, see `weight`.
    """
    sums: dict[str, _Sum] = {}
    total = _Sum()

    def each(keys: Iterable[str]) -> list[_Sum]:
        return [total, *(sums.setdefault(key, _Sum()) for key in dict.fromkeys(keys))]

    for spell in spells:
        _add(spell, span, by, sums, total, seats or {})
    if span.until >= span.now:
        for ticket in waiting:
            for found in each(_keys(by, ticket.user, ticket.groups, ticket.profile)):
                found.waiting.append(ticket.seconds)
    for refusal in refusals:
        for found in each(_keys(by, refusal.user, refusal.groups, refusal.profile)):
            found.refused[refusal.reason] = found.refused.get(refusal.reason, 0) + refusal.count
    rows = sorted((found.row(key) for key, found in sums.items()), key=lambda row: (-row.gpu_seconds, row.key))
    return Report(by, span, tuple(rows), total.row(""))


def _add(spell: Spell, span: Span, by: str, sums: dict[str, _Sum], total: _Sum, seats: Mapping[str, int]) -> None:
    seconds = inside(spell, span)
    turn = span.since <= spell.began < span.until
    if not seconds and not turn:
        return
    idle = idle_part(spell, span.now)
    used = {unit: seconds * weight(unit, seats) for unit in spell.units}
    parts: dict[str, float] = {}
    if by == "gpu":
        for unit, amount in used.items():
            parts[device_of(unit)] = parts.get(device_of(unit), 0.0) + amount
    else:
        parts = dict.fromkeys(_keys(by, spell.user, spell.groups, spell.profile), sum(used.values()))
    for found, amount in ((total, sum(used.values())), *((sums.setdefault(key, _Sum()), part) for key, part in parts.items())):
        found.gpu_seconds += amount
        found.idle_seconds += amount * idle
        found.labs += 1
        if turn and spell.waited > 0:
            found.waits.append(spell.waited)


def _keys(by: str, user: str, groups: Sequence[str], profile: str) -> tuple[str, ...]:
    if by == "group":
        return tuple(groups) or (NOBODY,)
    return ({"user": user, "profile": profile}.get(by, NOBODY),)


@dataclass(frozen=True, slots=True)
class Slice:
    """One bar of the picture: GPU-seconds within a part of the period."""

    since: datetime
    until: datetime
    gpu_seconds: float
    idle_seconds: float


def slices(span: Span, spells: Sequence[Spell], seats: Mapping[str, int], most: int = 48) -> tuple[Slice, ...]:
    """The period cut into equal parts of an hour, of six, or of whole days; at most about `most` of them."""
    hours = (span.until - span.since).total_seconds() / 3600
    step = next((h for h in (1, 6, 24) if hours / h <= most), 24 * math.ceil(hours / 24 / most))
    count = max(1, math.ceil(hours / step))
    sums = [[0.0, 0.0] for _ in range(count)]
    cuts = [span.since + timedelta(hours=step * number) for number in range(count)] + [span.until]
    for spell in spells:
        weighed, idle = sum(weight(unit, seats) for unit in spell.units), idle_part(spell, span.now)
        first = max(0, int((spell.began - span.since).total_seconds() // (3600 * step)))
        for number in range(first, count if weighed else 0):
            seconds = inside(spell, Span(cuts[number], cuts[number + 1], span.now))
            if not seconds and number > first:
                break
            sums[number][0] += seconds * weighed
            sums[number][1] += seconds * weighed * idle
    return tuple(Slice(cuts[n], cuts[n + 1], used, idle) for n, (used, idle) in enumerate(sums))


def quantile(values: Sequence[float], part: float) -> float | None:
    """The least of the sorted values that at least this part of them does not exceed; None of none."""
    return values[max(0, math.ceil(part * len(values)) - 1)] if values else None


def _spread(values: Sequence[float]) -> dict[str, object]:
    rounded = [round(found, 1) if found is not None else None for found in (quantile(values, p) for p in (0.5, 0.95, 1.0))]
    return {"count": len(values), "median_seconds": rounded[0], "p95_seconds": rounded[1], "max_seconds": rounded[2]}

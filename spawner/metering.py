"""What the lab's metrics count: from readings of the ledger to numbers that only grow.

Owns the states that a GPU can be in on a metric, and the sums since the hub was started. Never reads a ledger or a clock, and
knows no format of metrics (`spawner.metrics` does).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from spawner import sharing, usage
from spawner.model import Gpu, Lease, LeaseState
from spawner.records import GpuMark

STATES = ("free", "claimed", "starting", "bound", "draining", "out", "missing")
"""`out` is held by nobody and taken out of circulation; `missing` is leased, but not listed by the driver."""
OUTCOMES = ("done", "cancelled", "failed")
OTHER = "other"
"""Stands for a profile that is no longer in lab.yaml."""
WAIT_BOUNDS = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Metered:
    """What the metrics want to know of a lease; `ended` is None while it goes on, `of_ticket` says that it came of a ticket."""

    profile: str
    units: tuple[str, ...]
    began: datetime
    ended: datetime | None
    idle: float
    waited: float
    of_ticket: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the ledger.

    Attributes:
        number: of the last entry of the journal that it took in.
        leases: all that are not released.
        waiting: profile of each ticket that waits.
        events: action and subject of what happened since the reading before.
        metered: by lease id, for all leases that are active or named by an event.
    """

    number: int
    leases: tuple[Lease, ...]
    waiting: tuple[str, ...]
    marks: tuple[GpuMark, ...]
    events: tuple[tuple[str, str], ...]
    metered: Mapping[str, Metered]


@dataclass(frozen=True, slots=True)
class Unit:
    """A leasable unit on the metrics; `uuid` is the physical GPU's, as NVIDIA's exporter names it."""

    unit: str
    uuid: str
    node: str
    model: str
    kind: str
    simulated: bool
    state: str
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Picture:
    """What a scrape shows.

    Attributes:
        ok: ledger and driver answered when it was taken.
        at: when it was taken; None before the first reading.
        wait_buckets: how many waited up to each of `WAIT_BOUNDS`, and, last, how many at all.
    """

    profiles: tuple[str, ...]
    ok: bool = False
    at: datetime | None = None
    units: tuple[Unit, ...] = ()
    leases: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    lease_seconds: Mapping[str, float] = field(default_factory=dict)
    gpu_seconds: Mapping[str, float] = field(default_factory=dict)
    idle_seconds: float = 0.0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    wait_buckets: tuple[int, ...] = (0,) * (len(WAIT_BOUNDS) + 1)
    wait_sum: float = 0.0


@dataclass
class _Counted:
    """What has been counted of one lease. It never shrinks: a claim that becomes a start begins its time anew."""

    profile: str
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    idle: float = 0.0
    idle_before: float = 0.0
    turn_counted: bool = False


class Meter:
    """Sums since it was made.

    Args:
        profiles: keys of lab.yaml's profiles.
        start: the moment it was made; what leases did before does not count.
    """

    def __init__(self, profiles: Iterable[str], start: datetime) -> None:
        self.profiles = (*profiles, OTHER)
        self.number: int | None = None
        self._start = start
        self._counted: dict[str, _Counted] = {}
        self._lease_seconds = dict.fromkeys(self.profiles, 0.0)
        self._gpu_seconds = dict.fromkeys(self.profiles, 0.0)
        self._idle = 0.0
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._waits = [0] * (len(WAIT_BOUNDS) + 1)
        self._wait_sum = 0.0

    def take(self, reading: Reading, gpus: Sequence[Gpu], now: datetime, *, ok: bool = True) -> Picture:
        """Take in a reading, and tell what the metrics show now.

        Args:
            reading: what has happened since the one before.
            gpus: every unit of the lab.
            now: the present moment.
            ok: whether `gpus` could be told; otherwise they are those of before.
        """
        first, self.number = self.number is None, reading.number
        seats = {gpu.device: gpu.seats for gpu in gpus if gpu.seats}
        for lease_id, metered in reading.metered.items():
            self._count(lease_id, metered, now, seats, first)
        for action, subject in reading.events:
            self._happened(action, reading.metered.get(subject), self._counted.get(subject))
        active = {lease.id for lease in reading.leases}
        for lease_id in [lease_id for lease_id in self._counted if lease_id not in active]:
            self._settle(self._counted.pop(lease_id))
        return self._picture(reading, gpus, now, ok)

    def _count(self, lease_id: str, metered: Metered, now: datetime, seats: Mapping[str, int], first: bool) -> None:
        counted = self._counted.get(lease_id)
        if counted is None:
            before = metered.idle if first else 0.0
            counted = _Counted(self._profile(metered.profile), idle_before=before, turn_counted=first)
            self._counted[lease_id] = counted
        weight = sum(usage.weight(unit, seats) for unit in metered.units)
        seconds = max(0.0, ((metered.ended or now) - max(metered.began, self._start)).total_seconds())
        idle = (metered.idle - counted.idle_before) * (weight / len(metered.units) if metered.units else 0.0)
        counted.seconds = max(counted.seconds, seconds)
        counted.gpu_seconds = max(counted.gpu_seconds, seconds * weight)
        counted.idle = max(counted.idle, idle)

    def _settle(self, counted: _Counted) -> None:
        self._lease_seconds[counted.profile] += counted.seconds
        self._gpu_seconds[counted.profile] += counted.gpu_seconds
        self._idle += counted.idle

    def _happened(self, action: str, metered: Metered | None, counted: _Counted | None) -> None:
        if action in ("ticket.cancelled", "ticket.failed"):
            self._outcomes[action.partition(".")[2]] += 1
        if metered is None or counted is None or not metered.of_ticket:
            return
        if action == "lease.bound":
            self._outcomes["done"] += 1
        elif action in ("ticket.claimed", "lease.acquired") and not counted.turn_counted:
            # A claim that becomes a start is one turn.
            counted.turn_counted = True
            self._waits[bisect_left(WAIT_BOUNDS, metered.waited)] += 1
            self._wait_sum += metered.waited

    def _profile(self, profile: str) -> str:
        return profile if profile in self.profiles else OTHER

    def _picture(self, reading: Reading, gpus: Sequence[Gpu], now: datetime, ok: bool) -> Picture:
        lease_seconds, gpu_seconds, idle = dict(self._lease_seconds), dict(self._gpu_seconds), self._idle
        for counted in self._counted.values():
            lease_seconds[counted.profile] += counted.seconds
            gpu_seconds[counted.profile] += counted.gpu_seconds
            idle += counted.idle
        states = [state.value for state in LeaseState if state is not LeaseState.RELEASED]
        waiting = [self._profile(profile) for profile in reading.waiting]
        buckets = tuple(sum(self._waits[: number + 1]) for number in range(len(self._waits)))
        return Picture(
            profiles=self.profiles,
            ok=ok,
            at=now,
            units=units(gpus, reading.leases, reading.marks),
            leases={state: sum(lease.state.value == state for lease in reading.leases) for state in states},
            waiting={profile: waiting.count(profile) for profile in self.profiles},
            lease_seconds=lease_seconds,
            gpu_seconds=gpu_seconds,
            idle_seconds=idle,
            outcomes=dict(self._outcomes),
            wait_buckets=buckets,
            wait_sum=self._wait_sum,
        )


def units(gpus: Sequence[Gpu], leases: Sequence[Lease], marks: Sequence[GpuMark]) -> tuple[Unit, ...]:
    """Every unit with its one state, those that are leased but no longer listed at the end."""
    held = {unit: lease for lease in leases for unit in lease.gpus}
    out = {mark.subject for mark in marks}
    found = []
    for gpu in gpus:
        lease = held.pop(gpu.uuid, None)
        marked = not out.isdisjoint((gpu.uuid, gpu.device, gpu.parent, gpu.node))
        state = lease.state.value if lease else "out" if marked else "free"
        physical = gpu.parent or gpu.device
        found.append(Unit(gpu.uuid, physical, gpu.node, gpu.model, sharing.kind(gpu), gpu.simulated, state, lease))
    for unit, lease in sorted(held.items()):
        found.append(Unit(unit, usage.device_of(unit), "", "", "", False, "missing", lease))
    return tuple(found)

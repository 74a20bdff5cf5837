"""The lab's numbers on the hub's own `/metrics`.

Owns the library of Prometheus: names, labels and help of the metrics, and their one registration. Never changes anything, never
holds up the hub (a reading is made in a thread, and a scrape that finds it late shows the one before), and never fails a scrape.

Every series exists from the start, with 0, for each profile, state, reason and outcome. Only holders of GPUs are not known
before they come; theirs is a series of its own to join with, one per leased unit at most.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from spawner import errors
from spawner.errors import LabError, Queued
from spawner.metering import OTHER, OUTCOMES, STATES, WAIT_BOUNDS, Meter, Picture
from spawner.model import Gpu, LeaseState
from spawner.runtime import Lab

# A reading serves every scrape for so long; a scrape waits so long for a new one.
FRESH_SECONDS = 5.0
WAIT_SECONDS = 0.25
log = logging.getLogger(__name__)


def reasons() -> tuple[str, ...]:
    """Every reason for which a request can be refused; one that became a ticket was not."""
    tree = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, LabError)]
    return tuple(sorted({error.reason for error in tree if error is not Queued}))


_refused = dict.fromkeys(reasons(), 0)
_lock = threading.Lock()


def count_refusal(reason: str) -> None:
    """Count a refused request."""
    with _lock:
        known = reason if reason in _refused else LabError.reason
        _refused[known] += 1


class Reader:
    """Makes pictures of one lab, one after the other."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.meter = Meter(lab.config.profiles, lab.clock())
        self._gpus: tuple[Gpu, ...] = ()

    def __call__(self) -> Picture:
        """Ask driver and ledger.

        Raises:
            LedgerError: the ledger does not answer; a driver that does not is told in the picture.
        """
        ok = True
        try:
            self._gpus = self.lab.units()
        except LabError as error:
            ok = False
            log.warning("the metrics show the GPUs of before: %s", error)
        return self.meter.take(self.lab.ledger.reading(self.meter.number), self._gpus, self.lab.clock(), ok=ok)


class LabCollector(Collector):
    """Shows the newest picture to every scrape, and has a new one made where it is old.

    Args:
        read: makes a picture; may take its time, and may fail.
        profiles: keys of lab.yaml's profiles, for what is shown before the first picture.
    """

    def __init__(self, read: Callable[[], Picture], profiles: Iterable[str]) -> None:
        self._read = read
        self._picture = Picture(profiles=(*profiles, OTHER))
        self._taken = float("-inf")
        self._under_way: threading.Event | None = None
        self._guard = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Names only: the registry asks for them once, and must not wait for a reading."""
        return families(self._picture, {})

    def collect(self) -> Iterator[Metric]:
        """Everything that is shown."""
        self.refresh(WAIT_SECONDS)
        with _lock:
            refused = dict(_refused)
        yield from families(self._picture, refused)

    def refresh(self, wait: float) -> None:
        """Have a new picture made where the last one is old, and wait so many seconds for it."""
        with self._guard:
            if time.monotonic() - self._taken < FRESH_SECONDS:
                return
            done = self._under_way
            if done is None:
                done = self._under_way = threading.Event()
                # A thread that dies with the hub: one that hangs in a driver must not keep it from ending.
                threading.Thread(target=self._take, args=(done,), name="gpulab-metrics", daemon=True).start()
        done.wait(wait)

    def _take(self, done: threading.Event) -> None:
        try:
            self._picture = self._read()
        except Exception as error:
            # Whatever it is, the hub's other metrics must still be shown.
            log.warning("the metrics show the numbers of before: %s", error)
            self._picture = replace(self._picture, ok=False)
        finally:
            with self._guard:
                self._taken = time.monotonic()
                self._under_way = None
            done.set()


_registered: weakref.WeakKeyDictionary[CollectorRegistry, LabCollector] = weakref.WeakKeyDictionary()


def register(lab: Lab, registry: CollectorRegistry = REGISTRY) -> None:
    """Have the lab's numbers shown with the hub's; once per registry."""
    if registry not in _registered:
        _registered[registry] = collector = LabCollector(Reader(lab), lab.config.profiles)
        registry.register(collector)
        # Totals begin here and not at the first scrape.
        collector.refresh(0)


def families(picture: Picture, refused: dict[str, int]) -> Iterator[Metric]:
    """A picture in the words of Prometheus."""
    yield from _gpus(picture)
    states = [state.value for state in LeaseState if state is not LeaseState.RELEASED]
    yield _gauge("gpulab_leases", "Leases that are not released.", "state", {s: picture.leases.get(s, 0) for s in states})
    waiting = {profile: picture.waiting.get(profile, 0) for profile in picture.profiles}
    yield _gauge("gpulab_tickets_waiting", "Tickets that wait in line.", "profile", waiting)
    seconds = {profile: picture.lease_seconds.get(profile, 0.0) for profile in picture.profiles}
    yield _counter("gpulab_lease_seconds", "Seconds that leases lasted, since the hub was started.", "profile", seconds)
    used = {profile: picture.gpu_seconds.get(profile, 0.0) for profile in picture.profiles}
    yield _counter("gpulab_gpu_seconds", "GPU-seconds that were leased, since the hub was started.", "profile", used)
    idle = CounterMetricFamily("gpulab_idle_gpu_seconds", "GPU-seconds that were leased and not used, since the hub was started.")
    idle.add_metric([], picture.idle_seconds)
    yield idle
    yield _counter("gpulab_requests_refused", "Requests that were refused, since the hub was started.", "reason", refused)
    outcomes = {outcome: picture.outcomes.get(outcome, 0) for outcome in OUTCOMES}
    yield _counter("gpulab_tickets_ended", "Tickets by how they ended, since the hub was started.", "outcome", outcomes)
    buckets = [(str(bound), count) for bound, count in zip(WAIT_BOUNDS, picture.wait_buckets, strict=False)]
    waits = HistogramMetricFamily("gpulab_ticket_wait_seconds", "Time from a ticket to its turn, since the hub was started.")
    waits.add_metric([], [*buckets, ("+Inf", picture.wait_buckets[-1])], sum_value=picture.wait_sum)
    yield waits
    yield GaugeMetricFamily("gpulab_reading_ok", "1 where ledger and driver answered at the last reading.", value=int(picture.ok))
    at = picture.at.timestamp() if picture.at else 0.0
    yield GaugeMetricFamily("gpulab_reading_timestamp_seconds", "When the numbers above were read; 0 before.", value=at)


def _gpus(picture: Picture) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "gpulab_gpu_info", "Every leasable unit; always 1.", labels=["UUID", "unit", "node", "model", "kind", "simulated"]
    )
    state = GaugeMetricFamily("gpulab_gpu_state", "1 for the state that a unit is in.", labels=["UUID", "unit", "state"])
    holder = GaugeMetricFamily(
        "gpulab_gpu_holder_info", "Who holds a unit; always 1.", labels=["UUID", "unit", "user", "server", "profile"]
    )
    for unit in picture.units:
        name = [unit.uuid, unit.unit]
        info.add_metric([*name, unit.node, unit.model, unit.kind, str(unit.simulated).lower()], 1)
        for known in STATES:
            state.add_metric([*name, known], int(known == unit.state))
        if unit.lease is not None:
            held_by = unit.lease.holder
            holder.add_metric([*name, held_by.user, held_by.server, unit.lease.profile], 1)
    yield from (info, state, holder)


def _gauge(name: str, words: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counter(name: str, words: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family

"""Finds what goes wrong in labs that run: GPUs that a container lost, and seats that use more than their share.

Owns these rounds of the reclaimer. Never decides about seats (`seats` does), and stops nobody itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

from spawner import seats
from spawner.grants import SharingRule
from spawner.model import Gpu, Lease
from spawner.records import GpuSample
from spawner.runtime import Lab
from spawner.services import loop
from spawner.told import Trouble, TroubleKind
from spawner.vitals import VitalsReader, container_of

# Found within a minute, at the price of one short command in each lab.
PROBE_SECONDS = 30.0
PROBERS = 4
# A round waits no longer for what labs answer; whoever answers later is heard in a later round.
PATIENCE = 5.0
log = logging.getLogger("gpulab.reclaim")


class Troubles:
    """Looks for troubles; remembers when it looked last.

    Args:
        lab: the lab's parts.
        vitals: reads what containers have.
        stop: has a lab stopped, with the reason.
    """

    def __init__(self, lab: Lab, vitals: VitalsReader, stop: Callable[[Lease, str], None]) -> None:
        self.lab = lab
        self._vitals = vitals
        self._stop = stop
        self._probed = -PROBE_SECONDS
        self._looked: float | None = None
        self._dry: dict[str, Trouble] = {}
        self._pool = ThreadPoolExecutor(PROBERS)
        self._probing: dict[str, Future[str | None]] = {}

    def work(self, leases: Sequence[Lease], units: Mapping[str, Gpu], samples: Mapping[str, GpuSample]) -> None:
        """One round."""
        known = {(trouble.lease, trouble.kind): trouble for trouble in self.lab.ledger.troubles()}
        self._dry = {lease.id: self._dry[lease.id] for lease in leases if lease.id in self._dry}
        self._seats(leases, units, samples, known)
        real = [lease for lease in leases if any(uuid not in units or not units[uuid].simulated for uuid in lease.gpus)]
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            self._probed = time.monotonic()
            for lease in real:
                if lease.id not in self._probing:
                    self._probing[lease.id] = self._pool.submit(self._vitals.lost, lease.container)
            wait(self._probing.values(), PATIENCE)
        self._hear(real, known)

    def _hear(self, leases: Sequence[Lease], known: Mapping[tuple[str, TroubleKind], Trouble]) -> None:
        """Take what labs answered by now; one whose answer never comes keeps nobody waiting."""
        by_id = {lease.id: lease for lease in leases}
        for lease_id in [lease_id for lease_id, answer in self._probing.items() if answer.done()]:
            answer = self._probing.pop(lease_id)
            if (lease := by_id.get(lease_id)) is not None:
                with loop.kept_apart(log, f"what {lease.holder} has lost could not be noted"):
                    self._lost(lease, answer.result(), known.get((lease_id, TroubleKind.LOST)))

    def _lost(self, lease: Lease, why: str | None, before: Trouble | None) -> None:
        if why and before is None:
            log.error("%s has lost its GPUs: %s", lease.holder, why)
            text = f"Your lab has lost its GPUs ({why}). Save your work and restart it; the same GPUs stay yours."
            self.lab.ledger.note_trouble(Trouble(lease.id, TroubleKind.LOST, self.lab.clock(), text))
        elif why == "" and before is not None:
            log.info("%s has its GPUs back", lease.holder)
            self.lab.ledger.end_trouble(lease.id, TroubleKind.LOST)

    # --- seats ---------------------------------------------------------------

    def _seats(
        self,
        leases: Sequence[Lease],
        units: Mapping[str, Gpu],
        samples: Mapping[str, GpuSample],
        known: Mapping[tuple[str, TroubleKind], Trouble],
    ) -> None:
        clock = time.monotonic()
        watched = None if self._looked is None else timedelta(seconds=clock - self._looked)
        self._looked = clock
        sitting = [lease for lease in leases if any("#" in uuid for uuid in lease.gpus)]
        containers = {lease.container: lease.id for lease in sitting}
        devices = {uuid.partition("#")[0] for lease in sitting for uuid in lease.gpus}
        pids = {process.pid for device in devices if device in samples for process in samples[device].processes or ()}
        owners = {pid: containers[name] for pid in pids if (name := container_of(pid)) in containers}
        for lease in sitting:
            with loop.kept_apart(log, f"the seat of {lease.holder} could not be judged"):
                self._seat(lease, units, samples, owners, known.get((lease.id, TroubleKind.SEAT)), watched)

    def _seat(
        self,
        lease: Lease,
        units: Mapping[str, Gpu],
        samples: Mapping[str, GpuSample],
        owners: Mapping[int, str],
        before: Trouble | None,
        watched: timedelta | None,
    ) -> None:
        now = self.lab.clock()
        dry = self.lab.config.reclaim.mode == "dry-run"
        before = self._dry.get(lease.id) if dry else before
        held = seats.used(lease, samples, owners, now)
        verdict = seats.decide(lease, held, units, before, self._grace(lease, units), now, watched)
        if (verdict.trouble is None) != (before is None) or verdict.stop:
            word = "stop" if verdict.stop else "warn" if verdict.trouble else "clear"
            log.info("%s%s the seat of %s (%s)", "would " if dry else "", word, lease.holder, verdict.numbers)
        if dry:
            self._dry.pop(lease.id, None)
            if verdict.trouble is not None and not verdict.stop:
                self._dry[lease.id] = verdict.trouble
            return
        if verdict.trouble is not None:
            self.lab.ledger.note_trouble(verdict.trouble)
        elif before is not None:
            self.lab.ledger.end_trouble(lease.id, TroubleKind.SEAT)
        if verdict.stop and verdict.trouble is not None:
            self._stop(lease, verdict.trouble.text)

    def _grace(self, lease: Lease, units: Mapping[str, Gpu]) -> timedelta:
        found = [rule.grace for rule in self.lab.config.gpus.sharing if _concerns(rule, lease, units)]
        return max(found, default=SharingRule(frozenset(), frozenset(), 1).grace)


def _concerns(rule: SharingRule, lease: Lease, units: Mapping[str, Gpu]) -> bool:
    return any(unit in units and (units[unit].device in rule.gpus or units[unit].model in rule.models) for unit in lease.gpus)

"""Looks at the GPUs every few seconds: keeps the latest samples, takes sick GPUs out, and draws the picture of the day.

Owns these rounds of the settler. Never decides what is sick (`health` does), and ends no lab.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from spawner import health
from spawner.errors import InventoryError, LabError
from spawner.inventory import Watcher
from spawner.model import Gpu, Lease, LeaseState
from spawner.records import Fault, GpuMark, GpuSample, MarkKind, Tally, TicketState, Watch
from spawner.runtime import Lab
from spawner.services import loop

SAMPLE_SECONDS = 5.0
TALLY_SECONDS = 60.0
# A driver that can say nothing is asked to say it at most this often.
XID_SECONDS = 5.0
_HELD = (LeaseState.STARTING, LeaseState.BOUND, LeaseState.DRAINING)
log = logging.getLogger("gpulab.settler")


class Sampler:
    """One sampler; remembers the last look, and what the driver reported since.

    Args:
        lab: the lab's parts.
        clock: a clock that cannot be set, in seconds.
    """

    def __init__(self, lab: Lab, clock: Callable[[], float] = time.monotonic) -> None:
        self.lab = lab
        self._clock = clock
        self._before: dict[str, GpuSample] = {}
        self._drawn = float("-inf")
        self._reports: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        self._bare = True

    def run(self, stopped: threading.Event, parent: int) -> None:
        """Sample, and listen to the driver, in threads of their own: one that stalls must not hold up settlement."""
        threading.Thread(target=self._listen, args=(self.lab.inventory.watch(), stopped), daemon=True).start()
        threading.Thread(target=loop.run, args=(self.work, stopped, parent, SAMPLE_SECONDS), daemon=True).start()

    def work(self) -> None:
        """One round. A driver or ledger that does not answer is logged; what is known stays as it is."""
        lab = self.lab
        try:
            now = lab.clock()
            marks, leases = lab.ledger.marks(), lab.ledger.active()
            samples = self._sample(now, {uuid.partition("#")[0] for lease in leases for uuid in lease.gpus}, marks)
            if self._clock() - self._drawn >= TALLY_SECONDS:
                self._draw(samples, leases, now)
                self._drawn = self._clock()
        except LabError as error:
            log.warning("the GPUs were not looked at in this round: %s", error)

    def heard(self, reports: Iterable[tuple[str, Fault]]) -> None:
        """Take what the driver reported by itself; it is judged in the next round."""
        with self._lock:
            self._reports.extend(reports)

    def _listen(self, watcher: Watcher, stopped: threading.Event) -> None:
        told = ""
        while not stopped.is_set():
            try:
                self.heard(watcher.wait(XID_SECONDS))
                told = ""
            except InventoryError as error:
                # The rounds beside this say so too; here once is enough.
                if error.message != told:
                    told = error.message
                    log.warning("what the driver reports is not heard: %s", error)
        watcher.close()

    def _sample(self, now: datetime, held: Iterable[str], marks: Sequence[GpuMark]) -> tuple[GpuSample, ...]:
        lab = self.lab
        known = {*held, *(mark.subject for mark in marks), *self._before}
        samples = lab.inventory.samples(now, sorted(known))
        with self._lock:
            reports, self._reports = self._reports, []
        try:
            begin, end = health.changes(health.with_reports(samples, reports, now), marks, now, self._before)
            for mark in begin:
                log.error("GPU %s is taken out of circulation: %s", mark.subject, mark.reason)
                lab.ledger.mark(mark)
            for uuid in end:
                log.info("GPU %s passed its check and is back in circulation", uuid)
                lab.ledger.unmark(uuid, health.BY_THE_LAB, now, (MarkKind.SICK,))
            # Simulated GPUs have nothing to tell, and a hub at rest should not write every few seconds.
            if not self._bare or any(_tells_anything(sample) for sample in samples):
                lab.ledger.note_samples(samples)
                self._bare = not any(_tells_anything(sample) for sample in samples)
        except LabError:
            # Not judged yet, so it is judged in the next round.
            self.heard(reports)
            raise
        self._before = {sample.uuid: sample for sample in samples}
        return samples

    def _draw(self, samples: Sequence[GpuSample], leases: Sequence[Lease], now: datetime) -> None:
        ledger = self.lab.ledger
        waiting = sum(ticket.state is TicketState.WAITING for ticket in ledger.tickets())
        try:
            gpus = self.lab.inventory.gpus()
        except InventoryError:
            gpus = ()
        ledger.tally(tally(gpus, samples, leases, ledger.marks(), ledger.watches(), waiting, now))


def tally(
    gpus: Sequence[Gpu],
    samples: Sequence[GpuSample],
    leases: Sequence[Lease],
    marks: Sequence[GpuMark],
    watches: Mapping[str, Watch],
    waiting: int,
    now: datetime,
) -> Tally:
    """How many devices are what: one that is out of circulation counts as out, whoever holds it.

    A shared device is held while any of its seats is, and idle only where all of these are.
    """
    out = {mark.subject for mark in marks}
    devices = {gpu.device: gpu for gpu in gpus}
    lost = {sample.uuid for sample in samples if sample.uuid not in devices and sample.faults}
    gone = {device for device, gpu in devices.items() if out & {device, gpu.parent, gpu.node}}
    held: dict[str, list[bool]] = {}
    for lease in leases:
        idle = lease.id in watches and watches[lease.id].idle_since is not None
        for device in {uuid.partition("#")[0] for uuid in lease.gpus} if lease.state in _HELD else ():
            if device in devices and device not in gone:
                held.setdefault(device, []).append(idle)
    busy = [sample.utilisation for sample in samples if sample.utilisation is not None]
    return Tally(
        at=now,
        total=len(devices) + len(lost),
        held=len(held),
        idle=sum(all(each) for each in held.values()),
        out=len(gone) + len(lost),
        waiting=waiting,
        busy=sum(busy) / len(busy) if busy else None,
    )


def _tells_anything(sample: GpuSample) -> bool:
    return sample.utilisation is not None or sample.memory_used_mib is not None or bool(sample.faults)

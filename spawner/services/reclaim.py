"""Looks after labs that hold GPUs: gathers what each does, lets `reclaim` and `seats` decide, tells the holder, and stops labs.

Owns the loop. Never decides, and may do nothing in the hub but stop servers: its token has the scope `delete:servers` alone.
What goes wrong with one lab concerns that lab alone; whatever cannot be told keeps it running.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote

from spawner.services import loop

# Before the parts are imported, which takes a second: a hub that is ended in its first one interrupts its services.
# E402: so these imports come after it.
_asked_to_end = loop.stop_on_signals() if __name__ == "__main__" else threading.Event()

import requests  # noqa: E402

from spawner import policy, reclaim  # noqa: E402
from spawner.errors import EngineError, LabError  # noqa: E402
from spawner.model import Gpu, Lease, LeaseState  # noqa: E402
from spawner.reclaim import Decision, Signals, Step  # noqa: E402
from spawner.records import Event, GpuSample, Watch  # noqa: E402
from spawner.runtime import Lab, open_lab  # noqa: E402
from spawner.services import jupyter  # noqa: E402
from spawner.services.troubles import Troubles  # noqa: E402
from spawner.vitals import Vitals, VitalsReader, container_of  # noqa: E402

LONGEST_PERIOD = 30.0
STOP_SECONDS = 30.0
LOOKERS = 4
# A sample that is older than this says nothing about now.
FRESH = timedelta(minutes=1)
log = logging.getLogger("gpulab.reclaim")


@dataclass(frozen=True)
class Counters:
    """What a look at a lab counted, and when, by a clock that cannot be set."""

    at: float
    vitals: Vitals


@dataclass(frozen=True)
class Decided:
    """What was decided of a lab, on which watch, and which watch comes of it."""

    lease: Lease
    signals: Signals
    decision: Decision
    before: Watch
    after: Watch


class Reclaimer:
    """One reclaimer; remembers the last counters of each lab.

    Attributes:
        lab: the lab's parts.
        hub: address of the hub's API.
    """

    def __init__(self, lab: Lab, hub: str, token: str, session: requests.Session | None = None) -> None:
        self.lab = lab
        self.hub = hub.rstrip("/")
        self._session = session or requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"token {token}"
        self._vitals = VitalsReader(lab.engine, lab.config.network.name)
        self._troubles = Troubles(lab, self._vitals, self.stop)
        self._before: dict[str, Counters] = {}
        self._dry: dict[str, Watch] = {}
        self._kept: dict[str, str] = {}
        self._blind = False

    @property
    def period(self) -> float:
        """Seconds between two rounds: a tenth of the shortest time of the rules, from one to thirty."""
        rules = self.lab.config.reclaim
        shortest = min(rules.notice, rules.warning, rules.grace, rules.life_warning)
        return float(min(LONGEST_PERIOD, max(1.0, shortest.total_seconds() / 10)))

    def work(self) -> None:
        """One round over every lab that holds GPUs."""
        lab = self.lab
        try:
            leases = [lease for lease in lab.ledger.active() if lease.gpus and lease.state is LeaseState.BOUND]
            watches = lab.ledger.watches()
            samples = lab.ledger.samples()
        except LabError as error:
            log.warning("nobody was looked after in this round: %s", error)
            return
        try:
            units = {gpu.uuid: gpu for gpu in lab.units()}
        except LabError as error:
            # What the GPUs do is unknown then; what labs have lost can be seen all the same.
            log.warning("the GPUs are not known in this round: %s", error)
            units = {}
        self._forget_all_but(leases)
        if lab.config.reclaim.mode != "off":
            found: list[Decided] = []
            for lease, signals in self._look(leases, units, samples):
                with loop.kept_apart(log, f"{lease.holder} could not be looked after; it is left alone"):
                    found.append(self._decide(lease, signals, watches.get(lease.id, Watch(lease.id))))
            self._write(found)
        with loop.kept_apart(log, "troubles of labs were not looked for in this round"):
            self._troubles.work(leases, units, samples)

    def _forget_all_but(self, leases: Iterable[Lease]) -> None:
        known = {lease.id: lease.container for lease in leases}
        self._before = {lease: seen for lease, seen in self._before.items() if lease in known}
        self._dry = {lease: watch for lease, watch in self._dry.items() if lease in known}
        self._kept = {lease: why for lease, why in self._kept.items() if lease in known}
        self._vitals.forget_all_but(set(known.values()))

    # --- looking -------------------------------------------------------------

    def _look(
        self, leases: list[Lease], units: Mapping[str, Gpu], samples: Mapping[str, GpuSample]
    ) -> Iterable[tuple[Lease, Signals]]:
        homes = homes_of(leases, samples)
        with ThreadPoolExecutor(LOOKERS) as pool:
            looked = pool.map(lambda lease: self._from_outside(lease, units, samples, homes), leases)
            seen = dict(zip(leases, looked, strict=True))
        # What is seen at work from outside need not be asked.
        quiet = [lease for lease, signals in seen.items() if not reclaim.busy(signals, self.lab.config.reclaim)]
        ways = {}
        for lease in quiet:
            try:
                ways[lease.id] = (lease.holder, self._vitals.inside(lease.container))
            except (EngineError, KeyError, TypeError, ValueError) as error:
                log.info("%s cannot be looked into: %s", lease.holder, type(error).__name__)
        told = jupyter.ask(ways)
        for lease, signals in seen.items():
            kernels = told.get(lease.id)
            yield lease, signals if kernels is None else replace(signals, kernels_busy=kernels.busy, used=kernels.used)

    def _from_outside(
        self, lease: Lease, units: Mapping[str, Gpu], samples: Mapping[str, GpuSample], homes: Mapping[int, str]
    ) -> Signals:
        percent, memory = gpu_use(lease, units, samples, self.lab.clock(), homes)
        vitals = self._vitals.read(lease.container)
        # Both clocks after the counters were read, which may take a while.
        now, clock = self.lab.clock(), time.monotonic()
        before = self._before.get(lease.id)
        self._before[lease.id] = Counters(clock, vitals)
        if before is None:
            return Signals(now, None, percent, memory)
        seconds = clock - before.at
        moved = _rate(vitals.moved, before.vitals.moved, seconds)
        if moved is not None and not (vitals.complete and before.vitals.complete):
            self._tell_that_data_is_not_seen()
            moved = moved if moved > reclaim.COPYING else None
        cpu = _rate(vitals.cpu_seconds, before.vitals.cpu_seconds, seconds)
        return Signals(
            at=now,
            watched=timedelta(seconds=seconds),
            gpu_percent=percent,
            gpu_memory_mib=memory,
            cpu_percent=None if cpu is None else 100 * cpu,
            moved=moved,
        )

    def _tell_that_data_is_not_seen(self) -> None:
        if not self._blind:
            self._blind = True
            log.warning(
                "the kernel does not tell what labs read and write (the hub does not run as root, or the engine is on another "
                "host), so a copy to the NAS could not be told from idleness: no lab is reclaimed for being idle"
            )

    # --- acting --------------------------------------------------------------

    def _decide(self, lease: Lease, signals: Signals, watch: Watch) -> Decided:
        rules, policies = self.lab.config.reclaim, self.lab.config.policy
        hours_end = None
        if policy.limits_hours(policies, lease):
            hours_end = policy.hours_end(policies, lease, self.lab.ledger.standing(lease.holder, signals.at), signals.at)
        dry = rules.mode == "dry-run"
        known = self._dry.get(lease.id, Watch(lease.id)) if dry else watch
        decided = reclaim.decide(lease, signals, known, rules, hours_end)
        if decided.step is not Step.KEEP:
            would = "would " if dry else ""
            log.info("%s%s %s: %s (%s)", would, decided.step.value, lease.holder, decided.why, signals.numbers())
        elif decided.why != self._kept.get(lease.id, "") and not decided.idle and not reclaim.busy(signals, rules):
            log.info("keep %s: %s (%s)", lease.holder, decided.why, signals.numbers())
        self._kept[lease.id] = decided.why
        if not dry:
            return Decided(lease, signals, decided, watch, decided.watch)
        # After a stop that was none, it begins anew.
        self._dry[lease.id] = Watch(lease.id, seen=signals.at) if decided.step is Step.STOP else decided.watch
        silent = replace(watch, idle_since=decided.watch.idle_since, seen=signals.at)
        return Decided(lease, signals, replace(decided, step=Step.KEEP), watch, silent)

    def _write(self, found: Sequence[Decided]) -> None:
        ledger = self.lab.ledger
        try:
            ledger.add_idle(
                [(one.lease.id, one.decision.idle.total_seconds() * len(one.lease.gpus)) for one in found if one.decision.idle]
            )
            replaced = ledger.rewatch([(one.before, one.after) for one in found])
        except LabError as error:
            log.warning("nothing was done in this round: %s", error)
            return
        for one in found:
            with loop.kept_apart(log, f"{one.lease.holder} could not be told or stopped"):
                if one.lease.id in replaced:
                    self._tell(one.lease, one.signals, one.decision)
                elif one.decision.step is not Step.KEEP:
                    log.info("%s was extended or ended meanwhile; it is left alone in this round", one.lease.holder)

    def _tell(self, lease: Lease, signals: Signals, decided: Decision) -> None:
        if decided.step in (Step.NOTICE, Step.WARN):
            self.lab.ledger.record(
                Event(
                    signals.at, "lab", f"lease.{decided.step.value}", lease.holder.user, lease.holder.server, lease.id,
                    lease.gpus, {"why": decided.why, "signals": signals.numbers()},
                )
            )  # fmt: skip
        elif decided.step is Step.STOP:
            self.stop(lease, decided.why)

    def stop(self, lease: Lease, why: str) -> None:
        """Have the hub stop a lab, as its holder would; the reason is written down first.

        Raises:
            LabError: the ledger does not answer.
        """
        ledger = self.lab.ledger
        ledger.note_ending(lease.id, why)
        user, server = quote(lease.holder.user, safe=""), quote(lease.holder.server, safe="")
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        try:
            answer = self._session.delete(f"{self.hub}/{path}", timeout=STOP_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            log.warning("the stop of %s could not be asked of the hub: %s", lease.holder, error)
            return
        log.info("asked for the stop of %s: %d", lease.holder, answer.status_code)
        if answer.status_code == 404:
            # The hub does not know it any more; settlement ends it just as gently.
            ledger.drain(lease.id, self.lab.clock(), ending=why)


def homes_of(leases: Iterable[Lease], samples: Mapping[str, GpuSample]) -> dict[int, str]:
    """Process id → container, of what runs on seats and MIG instances."""
    devices = {uuid.partition("#")[0] for lease in leases for uuid in lease.gpus if _is_part(uuid)}
    pids = {process.pid for device in devices if device in samples for process in samples[device].processes or ()}
    return {pid: container_of(pid) for pid in pids}


def gpu_use(
    lease: Lease, units: Mapping[str, Gpu], samples: Mapping[str, GpuSample], now: datetime, homes: Mapping[int, str]
) -> tuple[float | None, int | None]:
    """Highest utilisation of a lease's GPUs in percent, and memory in use on them in MiB; None where any is not known.

    The utilisation of a seat's device is its neighbours' too, and that of a MIG instance is told by no driver. So a part is
    used as much as the lab's own processes use it; where the driver does not tell, without any it is unused, and with one it
    goes by the device. Its memory is that of the lab's own processes.
    """
    percents: list[float] = []
    memory: list[int | None] = []
    for uuid in lease.gpus:
        gpu, sample = units.get(uuid), samples.get(uuid.partition("#")[0])
        if gpu is not None and gpu.simulated:
            percents.append(0.0)
            continue
        if sample is None or abs(now - sample.at) > FRESH:
            return None, None
        percent, used = sample.utilisation, sample.memory_used_mib
        if _is_part(uuid):
            if sample.processes is None:
                return None, None
            own = [process for process in sample.processes if homes.get(process.pid) == lease.container]
            shares, sizes = [process.percent for process in own], [process.memory_mib for process in own]
            percent = percent if None in shares else min(100, sum(share or 0 for share in shares))
            used = None if None in sizes else sum(size or 0 for size in sizes)
        if percent is None:
            return None, None
        percents.append(float(percent))
        memory.append(used)
    known = [used for used in memory if used is not None]
    return max(percents, default=None), sum(known) if known and len(known) == len(memory) else None


def _is_part(uuid: str) -> bool:
    return "#" in uuid or uuid.startswith("MIG-")


def _rate(now: float | None, before: float | None, seconds: float) -> float | None:
    if now is None or before is None or seconds <= 0:
        return None
    # A process that ends takes its own counters with it.
    return max(0.0, (now - before) / seconds)


def main(argv: list[str]) -> int:
    """Entry point: the arguments are the path of lab.yaml and the process id of the hub; JupyterHub gives URL and token."""
    loop.announce("reclaim")
    try:
        reclaimer = Reclaimer(open_lab(argv[1]), os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
    except LabError as error:
        log.error("%s", error.message)
        return 1
    loop.run(reclaimer.work, _asked_to_end, int(argv[2]), reclaimer.period)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

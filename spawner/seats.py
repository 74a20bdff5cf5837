"""Decides when a lab is warned and stopped for using more of a shared GPU's memory than its seat's share.

Owns the rule. A pure function of samples and of what was said before; never reads a clock, measures nothing and stops nobody.

Memory that the driver does not tell, or of a process that nobody can be found for, is not held against anybody: the lab comes
nearer to a stop only while it is seen to exceed its seat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spawner.model import Gpu, Lease
from spawner.reclaim import counted_of
from spawner.records import GpuSample
from spawner.told import Trouble, TroubleKind

NOTHING = timedelta()
# A sample that is older than this says nothing about now.
FRESH = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is true of a lab's seats now.

    Attributes:
        trouble: what its holder is told; None where all is well.
        stop: it is to be stopped now.
        numbers: behind it, for the log.
    """

    trouble: Trouble | None
    stop: bool = False
    numbers: str = ""


def used(lease: Lease, samples: Mapping[str, GpuSample], owners: Mapping[int, str], now: datetime) -> dict[str, int | None]:
    """Unit → MiB that the lab's processes hold on the device of each seat of a lease; None where that cannot be told.

    Args:
        lease: of any kind; only its seats are looked at.
        samples: the latest sample of each device, by UUID.
        owners: process id → lease id, of processes that run in a lab's container.
        now: the present moment.
    """
    found: dict[str, int | None] = {}
    for unit in lease.gpus:
        device, _, seat = unit.partition("#")
        if not seat:
            continue
        sample = samples.get(device)
        if sample is None or abs(now - sample.at) > FRESH or sample.memory_used_mib is None or sample.processes is None:
            found[unit] = None
            continue
        own = [process.memory_mib for process in sample.processes if owners.get(process.pid) == lease.id]
        found[unit] = None if None in own else sum(memory or 0 for memory in own)
    return found


def decide(
    lease: Lease,
    held: Mapping[str, int | None],
    units: Mapping[str, Gpu],
    before: Trouble | None,
    grace: timedelta,
    now: datetime,
    watched: timedelta | None,
) -> Verdict:
    """Whether a lab exceeds one of its seats, and what is done about it.

    Args:
        lease: the lab's.
        held: what `used` found.
        units: every unit of the lab, by UUID.
        before: what its holder was told; None where nothing.
        grace: time between the warning and the stop.
        now: the present moment.
        watched: time since the last look, by a clock that cannot be set; None where there was none.
    """
    over = [
        (unit, memory, units[unit].memory_mib)
        for unit, memory in held.items()
        if memory is not None and unit in units and memory > units[unit].memory_mib
    ]
    if before is None and not over:
        return Verdict(None)
    if before is None:
        text = f"{_exceeds(*over[0])} Free some of it: others sit on this GPU. The lab is stopped otherwise."
        return Verdict(Trouble(lease.id, TroubleKind.SEAT, now, text, now + grace, now), numbers=_numbers(held))
    if not over and None not in held.values():
        return Verdict(None, numbers=_numbers(held))
    # Time in which it was not seen to exceed its seat does not count.
    counted = counted_of(watched, before.seen, now) if over else NOTHING
    gap = now - before.seen if before.seen else NOTHING
    stop_at = before.stop_at + (gap - counted) if before.stop_at else None
    trouble = replace(before, stop_at=stop_at, seen=now)
    stop = bool(over) and stop_at is not None and now >= stop_at
    if stop:
        why = f"The lab was stopped: it went on using more than its seat. {_exceeds(*over[0])}"
        trouble = replace(trouble, text=why)
    return Verdict(trouble, stop, _numbers(held))


def _exceeds(unit: str, memory: int, share: int) -> str:
    return f"Your lab uses {memory / 1024:.1f} GiB of a shared GPU ({unit[:12]}), where its seat is {share / 1024:.1f} GiB."


def _numbers(held: Mapping[str, int | None]) -> str:
    return ", ".join(f"{unit} {'?' if memory is None else memory} MiB" for unit, memory in held.items())

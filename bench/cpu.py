"""CPU seconds of process trees, of the engine and of the whole machine, read from /proc.

Owns the reading and what counts as whose. Never measures containers: the engine counts those itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
ENGINE_NAMES = ("dockerd", "containerd")
SHIM_NAME = "containerd-shim"


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it; `seconds` counts its ended children too."""

    pid: int
    parent: int
    name: str
    seconds: float


def parse_stat(line: str) -> Process:
    """Read a line of /proc/PID/stat; the name may hold blanks and parentheses."""
    pid, _, rest = line.partition(" (")
    name, _, numbers = rest.rpartition(") ")
    fields = numbers.split()
    return Process(int(pid), int(fields[1]), name, sum(map(int, fields[11:15])) / TICKS)


def processes(proc: Path = Path("/proc")) -> dict[int, Process]:
    """All processes by id."""
    found = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            process = parse_stat(path.read_text())
        except (OSError, ValueError):
            # It ended while it was looked at.
            continue
        found[process.pid] = process
    return found


def tree(roots: Iterable[int], among: dict[int, Process]) -> set[int]:
    """The roots and everything below them, but not what shims hold: those are the containers."""
    children: dict[int, list[int]] = {}
    for process in among.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in among]
    while waiting:
        pid = waiting.pop()
        if pid not in found and not among[pid].name.startswith(SHIM_NAME):
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def tree_seconds(roots: Iterable[int]) -> float:
    """CPU seconds so far of process trees."""
    among = processes()
    return sum(among[pid].seconds for pid in tree(roots, among))


def engine_seconds(containers: Iterable[str]) -> dict[int, float]:
    """CPU seconds so far of the engine on this machine and of the shims of the given containers, by process.

    Returns:
        Nothing where no engine runs on this machine.
    """
    among = processes()
    roots = [process.pid for process in among.values() if process.name in ENGINE_NAMES]
    if not roots:
        return {}
    shims = [process for process in among.values() if process.name.startswith(SHIM_NAME)]
    wanted = set(containers)
    ours = [shim for shim in shims if _command_line(shim.pid) & wanted]
    return {pid: among[pid].seconds for pid in tree(roots, among)} | {shim.pid: shim.seconds for shim in ours}


def spent(before: dict[int, float], after: dict[int, float]) -> float | None:
    """CPU seconds between two readings by process; None where nothing was there to read.

    Only processes that still live count: another engine on this machine may have ended meanwhile.
    """
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items()) if after else None


def machine_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU seconds since boot in which this machine was not idle."""
    fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / TICKS


def _command_line(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
    except OSError:
        return set()

"""What your lab uses at this moment.

Owns reading use: CPU, memory, shared memory, GPUs, space in the folders you were given. Never says what you may use (`lab`
does), and an unknown figure is None, never 0.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defectlab import lab

_SMI = ("nvidia-smi", "--query-gpu=uuid,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU at one moment.

    Attributes:
        uuid: which.
        busy: share of the last moment in which it computed anything, 0 to 1; None where it does not tell.
        used, total: memory in bytes.
    """

    uuid: str
    busy: float | None
    used: int
    total: int


@dataclass(frozen=True, slots=True)
class Use:
    """A lab at one moment.

    Attributes:
        at: moment on a clock that only runs forward, in seconds.
        cpu_seconds: computed since the lab began, over all CPUs; None where unknown.
        memory: bytes in use, without what the kernel only keeps in case it is read again; None where unknown.
        shm: bytes in /dev/shm; None where unknown.
        gpus: those that a driver tells of.
    """

    at: float
    cpu_seconds: float | None
    memory: int | None
    shm: int | None
    gpus: tuple[GpuUse, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder you were given.

    Attributes:
        path: where.
        purpose: what for.
        there: whether it exists.
        writable: whether you may write there.
        free, total: bytes on its disk; 0 where it does not exist.
    """

    path: Path
    purpose: str
    there: bool
    writable: bool
    free: int
    total: int


def now(root: Path = Path("/")) -> Use:
    """Look once.

    Args:
        root: where /sys and /dev are.
    """
    return Use(time.monotonic(), _cpu(root), memory(root), _shm(root), gpus())


def memory(root: Path = Path("/")) -> int | None:
    """Bytes in use, without what the kernel only keeps in case it is read again; None where unknown."""
    for folder, used, cache in (
        ("sys/fs/cgroup", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        lines = _lines(root, f"{folder}/{used}")
        if lines and lines[0].isdigit():
            stat = dict(line.split(" ", 1) for line in _lines(root, f"{folder}/memory.stat") if " " in line)
            kept = stat.get(cache, "0")
            return max(int(lines[0]) - (int(kept) if kept.isdigit() else 0), 0)
    return None


def cpus_busy(before: Use, after: Use) -> float | None:
    """How many CPUs worked between two looks; None where unknown."""
    if before.cpu_seconds is None or after.cpu_seconds is None or after.at <= before.at:
        return None
    return max(after.cpu_seconds - before.cpu_seconds, 0.0) / (after.at - before.at)


def gpus(command: Sequence[str] = _SMI) -> tuple[GpuUse, ...]:
    """What the driver says; empty where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None)


def folders() -> tuple[Folder, ...]:
    """The folders of a lab, with the space on their disks."""
    home = Path(os.environ.get("HOME") or "/home/engineer")
    given = [
        (home, "your home; the same in all of your labs"),
        (lab.data_folder(), "data sets, for all"),
        (lab.models_folder(), "models, for all; they outlive your lab"),
        # S108: it is looked at, and nothing is written there.
        (Path("/dev/shm"), "shared memory, in which data loaders hand over their batches"),  # noqa: S108
    ]
    return tuple(_folder(path, purpose) for path, purpose in given)


def _folder(path: Path, purpose: str) -> Folder:
    try:
        disk = os.statvfs(path)
    except OSError:
        return Folder(path, purpose, False, False, 0, 0)
    return Folder(path, purpose, True, os.access(path, os.W_OK), disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)


def _gpu(line: str) -> GpuUse | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != 4 or not (words[2].isdigit() and words[3].isdigit()):
        return None
    # A GPU that is cut in parts does not tell how busy one part is.
    busy = int(words[1]) / 100.0 if words[1].isdigit() else None
    return GpuUse(words[0], busy, int(words[2]) * _MIB, int(words[3]) * _MIB)


def _cpu(root: Path) -> float | None:
    for line in _lines(root, "sys/fs/cgroup/cpu.stat"):
        name, _, number = line.partition(" ")
        if name == "usage_usec" and number.isdigit():
            return int(number) / 1e6
    for line in _lines(root, "sys/fs/cgroup/cpuacct/cpuacct.usage"):
        if line.isdigit():
            return int(line) / 1e9
    return None


def _shm(root: Path) -> int | None:
    try:
        disk = os.statvfs(root / "dev" / "shm")
    except OSError:
        return None
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def _lines(root: Path, name: str) -> list[str]:
    try:
        return (root / name).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []

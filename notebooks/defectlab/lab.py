"""What this lab gives you.

Owns reading the environment and the limits that the lab was started with. Never asks the network, and says what there is, not
what the host has: in a container, the host's CPUs and memory are not yours.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
# cgroup v1 has no word for "no limit", only a number near 2**63.
_NO_LIMIT = 2**60


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the lab was told of it."""

    uuid: str
    model: str
    memory_mib: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class Lab:
    """What was given.

    Attributes:
        profile: the profile's name; '' outside a lab.
        lease: number of the lease; '' outside a lab.
        cpus: CPU limit, in CPUs.
        memory: memory limit in bytes; 0 where unknown.
        shm: size of /dev/shm in bytes, which data loader processes share; 0 where unknown.
        gpus: the GPUs of the lease.
    """

    profile: str
    lease: str
    cpus: float
    memory: int
    shm: int
    gpus: tuple[Gpu, ...]

    def __str__(self) -> str:
        rows = [
            ("profile", self.profile or "none (this is not a lab that a hub started)"),
            ("CPUs", f"{self.cpus:g}"),
            ("memory", f"{self.memory / GIB:.1f} GiB" if self.memory else "unknown"),
            ("shared memory", f"{self.shm / GIB:.1f} GiB" if self.shm else "unknown"),
        ]
        rows += [(f"GPU {number}", _told(gpu)) for number, gpu in enumerate(self.gpus)] or [("GPUs", "none")]
        return "\n".join(f"{name:14}{value}" for name, value in rows)


def look(env: Mapping[str, str] | None = None, root: Path = Path("/")) -> Lab:
    """Read what was given.

    Args:
        env: environment; the process's own where not given.
        root: where /sys, /proc and /dev are.
    """
    env = os.environ if env is None else env
    return Lab(
        profile=env.get("GPULAB_PROFILE", ""),
        lease=env.get("GPULAB_LEASE", ""),
        cpus=_cpus(root),
        memory=_memory(root),
        shm=_shm(root),
        gpus=_gpus(env.get("GPULAB_GPUS", "")),
    )


def device() -> str:
    """Where to compute: `cuda` where PyTorch finds a GPU, else `cpu`. Also lets PyTorch use the CPUs given, and no more.

    Left alone, PyTorch starts a thread per CPU of the host; in a lab with two CPUs of 64 they would stand in each other's way.
    """
    import torch

    torch.set_num_threads(max(1, int(look().cpus)))
    return "cuda" if torch.cuda.is_available() else "cpu"


def data_folder(env: Mapping[str, str] | None = None) -> Path:
    """Where data sets are."""
    return Path((os.environ if env is None else env).get("GPULAB_DATA") or "/workspace/data")


def models_folder(env: Mapping[str, str] | None = None) -> Path:
    """Where models go that are to outlive the lab."""
    return Path((os.environ if env is None else env).get("GPULAB_MODELS") or "/workspace/models")


def cache_folder(env: Mapping[str, str] | None = None) -> Path:
    """Where to keep what can be made again, such as features and checkpoints: in the home, so that it outlives the lab."""
    env = os.environ if env is None else env
    # S108: only where there is no home; in a lab, /tmp is the container's own and nobody else's.
    return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "/tmp") / ".cache") / "defectlab"  # noqa: S108


def hub_path(page: str, env: Mapping[str, str] | None = None) -> str:
    """The address of one of the hub's pages, such as `home` or `gpus`, as seen from this lab's own."""
    env = os.environ if env is None else env
    return f"{env.get('JUPYTERHUB_BASE_URL') or '/'}hub/{page}"


def user(env: Mapping[str, str] | None = None) -> str:
    """Who works here, as the hub calls them."""
    env = os.environ if env is None else env
    if name := env.get("JUPYTERHUB_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A user id without a name.
        return "engineer"


def _told(gpu: Gpu) -> str:
    memory = f", {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else ""
    simulated = " (simulated: there is no device behind it, so computing happens on the CPU)" if gpu.simulated else ""
    return f"{gpu.model}{memory}, {gpu.uuid}{simulated}"


def _gpus(text: str) -> tuple[Gpu, ...]:
    try:
        listed = json.loads(text or "[]")
        return tuple(Gpu(str(gpu["uuid"]), str(gpu["model"]), int(gpu["memory_mib"]), bool(gpu["simulated"])) for gpu in listed)
    except (ValueError, TypeError, KeyError):
        return ()


def _cpus(root: Path) -> float:
    there = float(len(os.sched_getaffinity(0)))
    quota, period = [*_read(root, "sys/fs/cgroup/cpu.max").split(), "", ""][:2]
    if not quota:
        # The same in cgroup v1, where -1 means no limit.
        quota, period = (_read(root, f"sys/fs/cgroup/cpu/cpu.cfs_{word}_us") for word in ("quota", "period"))
    return min(there, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else there


def _memory(root: Path) -> int:
    limits = (_read(root, "sys/fs/cgroup/memory.max"), _read(root, "sys/fs/cgroup/memory/memory.limit_in_bytes"))
    found = [int(limit) for limit in limits if limit.isdigit() and int(limit) < _NO_LIMIT]
    for line in _read(root, "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            found.append(int(line.split()[1]) * 1024)
    return min(found, default=0)


def _shm(root: Path) -> int:
    try:
        there = os.statvfs(root / "dev" / "shm")
    except OSError:
        return 0
    return there.f_blocks * there.f_frsize


def _read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""

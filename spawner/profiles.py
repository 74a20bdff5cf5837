"""Says which profiles this host can give, and why not.

Owns the comparison of a profile with the host's CPUs, memory and GPUs. Never looks at who asks or what is free:
an unavailable profile is unavailable to everyone, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spawner import sharing
from spawner.errors import UnavailableError
from spawner.model import Gpu, HostCapacity, Profile

_KINDS = {"exclusive": "GPUs", "mig": "MIG instances", "shared": "seats on shared GPUs"}


def unavailable_reason(profile: Profile, capacity: HostCapacity, gpus: Sequence[Gpu]) -> str:
    """One sentence why this host cannot give the profile; '' when it can.

    Docker refuses more CPUs than the host has; more memory than the host has would be a promise that cannot be kept.
    """
    wants = []
    if profile.cpus > capacity.cpus:
        wants.append(f"{profile.cpus:g} CPUs (this host has {capacity.cpus})")
    if profile.memory > capacity.memory:
        wants.append(f"{gib(profile.memory)} GB memory (this host has {gib(capacity.memory)})")
    suitable = len(sharing.distinct(g for g in gpus if sharing.suits(g, profile.request())))
    if profile.gpus > suitable:
        kind = f" of model {' or '.join(profile.gpu_models)}" if profile.gpu_models else ""
        size = f" with {gib(profile.gpu_memory_mib << 20)} GB" if profile.gpu_memory_mib else ""
        wants.append(f"{profile.gpus} {_KINDS[profile.sharing]}{kind}{size} (this host has {suitable})")
    return f"The profile {profile.title!r} needs {_and(wants)}." if wants else ""


def require_available(profile: Profile, capacity: HostCapacity, gpus: Sequence[Gpu]) -> None:
    """Refuse a profile this host cannot give.

    Raises:
        UnavailableError: with the same words that the form shows.
    """
    if reason := unavailable_reason(profile, capacity, gpus):
        raise UnavailableError(reason, "Choose another profile.")


def next_larger(profile: Profile, offered: Iterable[Profile], capacity: HostCapacity, gpus: Sequence[Gpu]) -> Profile | None:
    """The smallest profile with more memory that this host can give; None where there is none.

    One with as many GPUs is taken before one with fewer, that before one with more, and last, for work on GPUs, one without any.
    """

    def rank(other: Profile) -> tuple[int, int]:
        if other.gpus == profile.gpus:
            return 0, other.memory
        if other.gpus > profile.gpus:
            return 2, other.memory
        return (1 if other.gpus else 3), other.memory

    able = [p for p in offered if p.memory > profile.memory and not unavailable_reason(p, capacity, gpus)]
    return min(able, key=rank, default=None)


def size_text(size: int) -> str:
    """A size in bytes as a person says it: in MB below one GB."""
    return f"{gib(size)} GB" if size >= 1 << 30 else f"{size >> 20} MB"


def gib(size: int) -> str:
    """A size in bytes as GiB with at most one decimal."""
    return f"{size / (1 << 30):.1f}".removesuffix(".0")


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

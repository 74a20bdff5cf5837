"""Builders of values for unit tests: defaults for everything that a test does not care about."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from spawner import labfile
from spawner.model import EngineFacts, Gpu, Holder, HostCapacity, LabConfig, Lease, LeaseState, Profile

T0 = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
SHIPPED = Path(__file__).parents[2] / "lab.yaml"


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def make_gpu(index: int, *, node: str = "n1", model: str = "L4", simulated: bool = False) -> Gpu:
    return Gpu(f"GPU-00000000-0000-4000-8000-{index:012x}", node, index, model, 24_000, simulated)


def make_lease(holder: Holder | str = "ana", gpus: tuple[str, ...] = (), **changes: Any) -> Lease:
    if isinstance(holder, str):
        holder = Holder(holder)
    values: dict[str, Any] = {
        "id": "0" * 32, "holder": holder, "profile": "gpu-1", "gpus": gpus, "state": LeaseState.BOUND, "created": T0,
    }  # fmt: skip
    return Lease(**{**values, **changes})


def make_profile(**changes: Any) -> Profile:
    values: dict[str, Any] = {
        "key": "gpu-1", "title": "1 GPU", "description": "", "gpus": 1, "gpu_models": (), "cpus": 2.0,
        "memory": 8 << 30, "shm": 1 << 30, "pids": 1024,
    }  # fmt: skip
    return Profile(**{**values, **changes})


def make_facts(*, cdi: bool = True, cpus: int = 8, memory: int = 64 << 30) -> EngineFacts:
    return EngineFacts("26.1.5", HostCapacity(cpus, memory), cdi)


def shipped_config() -> LabConfig:
    return labfile.load(SHIPPED)

"""A modern Docker engine with CDI whose GPUs are stand-in devices; fixture `cdi_engine`.

Owns its root (bootstrapped once, cached), its CDI specification and its settings. The host's engine may be of any age.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from spawner.model import Gpu
from tests.support.private_engine import PrivateEngine, private_engine
from tests.support.roots import modern_root

NODE = "stand-in"
GPUS = tuple(
    Gpu(f"GPU-{letter * 8}-1111-4222-8333-444444444444", NODE, index, "NVIDIA Stand-in", 24576)
    for index, letter in enumerate("abc")
)
CDI = {"features": {"cdi": True}, "cdi-spec-dirs": ["/etc/cdi"]}


def cdi_spec(gpus: Sequence[Gpu]) -> dict[str, Any]:
    """The specification that `nvidia-ctk cdi generate --device-name-strategy=uuid` would write, without driver files."""

    def node(name: str) -> dict[str, str]:
        return {"path": f"/dev/{name}", "hostPath": "/dev/null"}

    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": gpu.uuid, "containerEdits": {"deviceNodes": [node(f"nvidia{gpu.index}")]}} for gpu in gpus],
        "containerEdits": {
            # So that an NVIDIA runtime beneath does not add devices of its own.
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [node("nvidiactl")],
        },
    }


@contextlib.contextmanager
def modern_engine(*, cdi: bool = True) -> Iterator[PrivateEngine]:
    """Run a modern engine, with or without CDI switched on."""
    extra = {"/etc/cdi/nvidia.json": json.dumps(cdi_spec(GPUS))}
    with private_engine(modern_root(), CDI if cdi else {}, GPUS, extra) as engine:
        yield engine


@pytest.fixture(scope="session")
def cdi_engine() -> Iterator[PrivateEngine]:
    """A modern engine that takes CDI requests for `GPUS`."""
    with modern_engine() as engine:
        yield engine

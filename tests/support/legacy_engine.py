"""The host's own dockerd with NVIDIA's legacy path and stand-in devices; fixtures `legacy_engine`, `nvidia_runtime_engine`.

Owns their settings. It is the program of the host's engine, not the engine: a second one, private to the tests.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import nvidia
from tests.support.modern_engine import GPUS
from tests.support.private_engine import PrivateEngine, private_engine

# dockerd offers the device driver `nvidia` when it finds NVIDIA's hook on its PATH; newer ones prefer CDI.
LEGACY = {"features": {"cdi": False}}
NVIDIA_RUNTIME = {"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": nvidia.RUNTIME}}}


@contextlib.contextmanager
def _engine(settings: dict[str, Any]) -> Iterator[PrivateEngine]:
    if not shutil.which("dockerd"):
        pytest.skip("needs a dockerd installed on this host, whose engine it would be")
    with private_engine(Path("/"), settings, GPUS, nvidia.programs(GPUS)) as engine:
        yield engine


@pytest.fixture(scope="session")
def legacy_engine() -> Iterator[PrivateEngine]:
    """An engine that hands out `GPUS` through the device driver `nvidia`."""
    with _engine(LEGACY) as engine:
        yield engine


@pytest.fixture(scope="session")
def nvidia_runtime_engine() -> Iterator[PrivateEngine]:
    """The same with NVIDIA's runtime as the default one, as `nvidia-ctk runtime configure --set-as-default` leaves it."""
    with _engine(LEGACY | NVIDIA_RUNTIME) as engine:
        yield engine

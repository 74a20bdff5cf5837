"""A stand-in for NVIDIA's management library that drives the real nvidia-ml-py in a process of its own.

Owns compiling it, the file that describes the hardware, and asking `spawner.inventory` through it. Never patches Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spawner.errors import InventoryError
from spawner.model import Gpu

REPO = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"

DRIVER_NOT_LOADED = 9
VERSION_MISMATCH = 18
NOT_SUPPORTED = 3
GPU_IS_LOST = 15
RESET_REQUIRED = 16
UNKNOWN = 999


@dataclass(frozen=True)
class Card:
    """One GPU of the stand-in; errors are NVML's numbers."""

    uuid: str
    name: str = "NVIDIA Stand-in"
    memory: int = 24 << 30
    error: int = 0
    memory_error: int = 0


@dataclass(frozen=True)
class Answer:
    """What the asked process said: GPUs or the error's sentence, and how it behaved."""

    gpus: tuple[Gpu, ...] = ()
    error: str | None = None
    kind: str = ""
    sessions: int = 0
    log: str = ""


@dataclass
class NvmlStandIn:
    """The compiled library in a folder, and the hardware it pretends."""

    folder: Path
    start: int = 0
    shutdown: int = 0
    cards: Sequence[Card] = field(default_factory=tuple)

    @classmethod
    def build(cls, folder: Path) -> NvmlStandIn:
        """Compile it; a few tenths of a second."""
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(folder / LIBRARY), str(SOURCE)]
        subprocess.run(command, check=True)
        return cls(folder)

    @classmethod
    def absent(cls, folder: Path) -> NvmlStandIn:
        """No library, also on a host that has the real one: an empty file in its place cannot be loaded."""
        (folder / LIBRARY).write_bytes(b"")
        return cls(folder)

    def env(self) -> dict[str, str]:
        """The environment of a process that is to find this library; writes the hardware's description."""
        lines = [f"start {self.start}", f"shutdown {self.shutdown}"]
        lines += [f"gpu {c.uuid} {c.memory} {c.error} {c.memory_error} {c.name}" for c in self.cards]
        state = self.folder / "hardware.txt"
        state.write_text("\n".join(lines) + "\n")
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "GPULAB_NVML_STANDIN": str(state)}

    def ask(self, question: dict[str, Any]) -> Answer:
        """Ask `spawner.inventory` in a process that finds this library first."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.support.nvml.ask", json.dumps(question)],
            cwd=REPO, env=self.env(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        return Answer(
            gpus=tuple(Gpu(**gpu) for gpu in said["gpus"]),
            error=said["error"],
            kind=said["kind"],
            sessions=said["sessions"],
            log=done.stderr,
        )


@dataclass(frozen=True)
class ThroughStandIn:
    """An `Inventory` whose answers come from `NvmlInventory` and the real nvidia-ml-py in another process."""

    standin: NvmlStandIn
    node: str

    def gpus(self) -> tuple[Gpu, ...]:
        answer = self.standin.ask({"node": self.node})
        if answer.error is not None:
            raise InventoryError(answer.error)
        return answer.gpus

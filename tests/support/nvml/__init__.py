"""A stand-in for NVIDIA's management library that drives the real nvidia-ml-py in a process of its own.

Owns compiling it, the file that describes the hardware, and asking `spawner.inventory` through it. Never patches Python.

Any process can be given it: start it with `NvmlStandIn.env()`, or with the library's folder in LD_LIBRARY_PATH, and change the
hardware under it with `write()`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from spawner.errors import InventoryError
from spawner.inventory import StaticInventory, Watcher
from spawner.model import Gpu
from spawner.records import Fault, GpuProcess, GpuSample

REPO = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"

DRIVER_NOT_LOADED = 9
VERSION_MISMATCH = 18
NOT_SUPPORTED = 3
NOT_FOUND = 6
NO_PERMISSION = 4
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
UNKNOWN = 999
# Where two GPUs meet on PCIe.
SINGLE, MULTIPLE, HOSTBRIDGE, NODE, SYSTEM = 10, 20, 30, 40, 50


@dataclass(frozen=True)
class Card:
    """One GPU of the stand-in, or a MIG instance; errors are NVML's numbers, and -1 is what it does not support.

    Attributes:
        rows: whether memory rows wait for a reset, and whether some could not be replaced.
        pages: whether memory pages wait for a reset.
        processes: process id and bytes of each; -1 bytes where the driver does not say.
        mps: the same, for processes under the multi-process service.
        fails: what single questions answer: utilisation, temperature, processes, ecc, rows, mode, events, topology or remote.
        mig: 1 or 0; a card with instances has it on.
    """

    uuid: str
    name: str = "NVIDIA Stand-in"
    memory: int = 24 << 30
    error: int = 0
    memory_error: int = 0
    percent: int = -1
    used: int = 0
    celsius: int = -1
    uncorrected: int = -1
    rows: tuple[int, int] = (-1, -1)
    pages: int = -1
    processes: tuple[tuple[int, int], ...] = ()
    mps: tuple[tuple[int, int], ...] = ()
    uses: tuple[tuple[int, int], ...] = ()
    fails: Mapping[str, int] = field(default_factory=dict)
    mig: int = -1
    instances: tuple[Card, ...] = ()

    def lines(self, parent: str = "", number: int = 0) -> list[str]:
        """Its lines in the stand-in's file. Instances have the GPU instance ids 1, 2, …, and the compute instance id 0."""
        errors = f"{self.memory} {self.error} {self.memory_error}"
        first = f"mig {parent} {self.uuid} {self.memory} {number} 0" if parent else f"gpu {self.uuid} {errors}"
        values = (self.percent, self.used, self.celsius, self.uncorrected, *self.rows, self.pages)
        lines = [f"{first} {self.name}", f"now {self.uuid} {' '.join(map(str, values))}"]
        lines += [f"process {self.uuid} {pid} {size} compute" for pid, size in self.processes]
        lines += [f"process {self.uuid} {pid} {size} mps" for pid, size in self.mps]
        lines += [f"uses {self.uuid} {pid} {percent}" for pid, percent in self.uses]
        lines += [f"fail {self.uuid} {question} {error}" for question, error in self.fails.items()]
        if self.instances or self.mig >= 0:
            lines.append(f"mode {self.uuid} {1 if self.instances else self.mig}")
        return lines + [line for i, card in enumerate(self.instances, 1) for line in card.lines(self.uuid, i)]


@dataclass(frozen=True)
class Answer:
    """What the asked process said, or the error's sentence, and how it behaved."""

    gpus: tuple[Gpu, ...] = ()
    samples: tuple[GpuSample, ...] = ()
    links: Mapping[frozenset[str], int] = field(default_factory=dict)
    reports: tuple[tuple[str, Fault], ...] = ()
    error: str | None = None
    kind: str = ""
    sessions: int = 0
    log: str = ""


@dataclass
class NvmlStandIn:
    """The compiled library in a folder, and the hardware it pretends.

    Attributes:
        xids: what the driver reported so far: UUID of the card, code, GPU instance and compute instance or -1.
        ancestors: where pairs of GPUs meet on PCIe.
        nvlinks: number of NVLinks between pairs of GPUs.
        switched: number of NVLinks from a GPU to a switch.
    """

    folder: Path
    start: int = 0
    shutdown: int = 0
    cards: Sequence[Card] = field(default_factory=tuple)
    xids: list[tuple[str, int, int, int]] = field(default_factory=list)
    ancestors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    nvlinks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    switched: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def build(cls, folder: Path) -> NvmlStandIn:
        """Compile it; a few tenths of a second."""
        options = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
        subprocess.run(["gcc", *options, "-o", str(folder / LIBRARY), str(SOURCE)], check=True)
        return cls(folder)

    @classmethod
    def absent(cls, folder: Path) -> NvmlStandIn:
        """No library, also on a host that has the real one: an empty file in its place cannot be loaded."""
        (folder / LIBRARY).write_bytes(b"")
        return cls(folder)

    @property
    def state(self) -> Path:
        """The file that describes the hardware."""
        return self.folder / "hardware.txt"

    def write(self) -> None:
        """Make the hardware what this object says, also under processes that run."""
        lines = [f"start {self.start}", f"shutdown {self.shutdown}"]
        lines += [line for card in self.cards for line in card.lines()]
        lines += [f"ancestor {one} {other} {level}" for (one, other), level in self.ancestors.items()]
        lines += [f"nvlink {one} {other} {links}" for (one, other), links in self.nvlinks.items()]
        lines += [f"nvswitch {uuid} {links}" for uuid, links in self.switched.items()]
        lines += [f"xid {' '.join(map(str, xid))}" for xid in self.xids]
        fresh = self.state.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self.state)

    def report(self, uuid: str, code: int, gpu_instance: int = -1, compute_instance: int = -1) -> None:
        """Let the driver report one more Xid error of a card."""
        self.xids.append((uuid, code, gpu_instance, compute_instance))
        self.write()

    def env(self) -> dict[str, str]:
        """The environment of a process that is to find this library; writes the hardware's description."""
        self.write()
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "GPULAB_NVML_STANDIN": str(self.state)}

    def ask(self, question: dict[str, Any]) -> Answer:
        """Ask `spawner.inventory` once, in a process that finds this library first; `ask.py` says what can be asked."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.support.nvml.ask"],
            input=json.dumps(question) + "\n",
            cwd=REPO, env=self.env(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return _answer(done.stdout, done.stderr)

    @contextmanager
    def asked(self) -> Iterator[Conversation]:
        """One process that is asked again and again, while the hardware changes under it."""
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.nvml.ask"],
            cwd=REPO, env=self.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                yield Conversation(self, process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                assert process.wait(timeout=60) == 0


@dataclass(frozen=True)
class Conversation:
    """A process that is asked again and again."""

    standin: NvmlStandIn
    process: subprocess.Popen[str]

    def begin(self, question: dict[str, Any]) -> None:
        """Ask, and go on before the answer is there."""
        self.standin.write()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Answer:
        """The answer to the question that was begun."""
        assert self.process.stdout is not None
        return _answer(self.process.stdout.readline(), "")

    def ask(self, question: dict[str, Any]) -> Answer:
        """Ask, and wait for the answer."""
        self.begin(question)
        return self.answer()


@dataclass(frozen=True)
class ThroughStandIn:
    """An `Inventory` whose answers come from `NvmlInventory` and the real nvidia-ml-py in another process."""

    standin: NvmlStandIn
    node: str

    def gpus(self) -> tuple[Gpu, ...]:
        return self._told({}).gpus

    def samples(self, at: datetime, known: Sequence[str] = ()) -> tuple[GpuSample, ...]:
        return self._told({"at": at.isoformat(), "known": list(known)}).samples

    def links(self) -> Mapping[frozenset[str], int]:
        return self._told({"links": True}).links

    def watch(self) -> Watcher:
        # To wait for something while the hardware changes, hold a conversation.
        return StaticInventory(()).watch()

    def _told(self, question: dict[str, Any]) -> Answer:
        answer = self.standin.ask({"node": self.node, **question})
        if answer.error is not None:
            raise InventoryError(answer.error)
        return answer


def _answer(stdout: str, log: str) -> Answer:
    said = json.loads(stdout)
    return Answer(
        gpus=tuple(Gpu(**gpu) for gpu in said["gpus"]),
        samples=tuple(_sample(found) for found in said["samples"]),
        links={frozenset(pair): close for pair, close in said["links"]},
        reports=tuple((uuid, Fault(**fault)) for uuid, fault in said["reports"]),
        error=said["error"],
        kind=said["kind"],
        sessions=said["sessions"],
        log=log,
    )


def _sample(said: dict[str, Any]) -> GpuSample:
    parts = {
        "at": datetime.fromisoformat(said["at"]),
        "processes": None if said["processes"] is None else tuple(GpuProcess(**one) for one in said["processes"]),
        "faults": tuple(Fault(**fault) for fault in said["faults"]),
    }
    return GpuSample(**{**said, **parts})

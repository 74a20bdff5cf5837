"""How long one image takes.

Owns timing with the care that the 99th percentile needs. Never times the first calls, and never tells a mean: a line waits for
the slowest part, not for the average one.
"""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of single calls.

    Attributes:
        name: what was timed.
        calls: how often.
        p50, p95, p99, worst: milliseconds that so many of the calls took at most.
        low99, high99: 95 % interval of p99 from the order of the calls' times.
    """

    name: str
    calls: int
    p50: float
    p95: float
    p99: float
    worst: float
    low99: float
    high99: float

    def __str__(self) -> str:
        return (
            f"{self.name:32} p50 {self.p50:6.2f} ms   p95 {self.p95:6.2f} ms   "
            f"p99 {self.p99:6.2f} ms ({self.low99:.2f} to {self.high99:.2f}), {self.calls} calls"
        )


def measure(
    name: str, call: Callable[[], Any], calls: int = 500, warmup: int = 20, *, wait: Callable[[], Any] | None = None
) -> Latency:
    """Time a call again and again.

    Args:
        name: what it is.
        call: what to time.
        calls: how often; p99 of fewer than some hundreds is the second worst of a few.
        warmup: calls before, untimed: caches fill, threads start, code is compiled.
        wait: waits until a device is done; a GPU's calls return before the work is.
    """
    wait = wait or _nothing
    for _ in range(warmup):
        call()
    wait()
    times = np.empty(calls)
    with _no_collector():
        for number in range(calls):
            began = time.perf_counter_ns()
            call()
            wait()
            times[number] = time.perf_counter_ns() - began
    return summarised(name, times / 1e6)


def summarised(name: str, milliseconds: NDArray[np.float64]) -> Latency:
    """The figures of some times."""
    ordered = np.sort(milliseconds)
    count = len(ordered)
    # How many of the calls lie above the true p99 is binomial; two standard deviations to either side.
    spread = 1.96 * (count * 0.01 * 0.99) ** 0.5
    low, high = (int(np.clip(round(count * 0.99 + side * spread), 0, count - 1)) for side in (-1, 1))
    p50, p95, p99 = np.percentile(ordered, [50, 95, 99])
    return Latency(name, count, float(p50), float(p95), float(p99), float(ordered[-1]), float(ordered[low]), float(ordered[high]))


def decode(content: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What a line does first: a compressed picture becomes grey levels of the model's size, `(1, height, width)`."""
    with Image.open(io.BytesIO(content)) as file:
        grey = file.convert("L")
        if grey.size != (size[1], size[0]):
            grey = grey.resize((size[1], size[0]), Image.Resampling.BOX)
        return np.asarray(grey)[None]


def encode(image: NDArray[np.uint8]) -> bytes:
    """A picture as a PNG file's content."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png")
    return content.getvalue()


def synchronised(device: torch.device | str) -> Callable[[], Any]:
    """What to give as `wait` for a device."""
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing


def _nothing() -> None:
    """There is nothing to wait for."""


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without Python's collector, whose pauses are this process's and not the model's."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""How fast a device trains, and what holds it back.

Owns measuring steps of training, the two limits of a device, and where operations lie between them. Never judges accuracy, and
never counts what happens before the first results are there: caches, clocks and compilers need their time.

ref: Williams et al. 2009, "Roofline: an insightful visual performance model", doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from defectlab.precision import Precision

_SIZES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
_TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to train: numbers, layout in memory, and whether compiled."""

    precision: str
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        extra = (", channels last" if self.channels_last else "") + (", compiled" if self.compiled else "")
        return f"{self.precision}{extra}"


@dataclass(frozen=True, slots=True)
class Speed:
    """What a way gave.

    Attributes:
        way: which.
        images_per_second: by the median step.
        peak_bytes: most memory of the GPU in use at once; None on a CPU, which does not tell.
    """

    way: Way
    images_per_second: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do at most, as measured.

    Attributes:
        flops: floating-point operations per second, by a large matrix product.
        bytes: bytes moved per second, by adding long vectors.
    """

    flops: float
    bytes: float

    @property
    def ridge(self) -> float:
        """Operations per byte at which both limits are met at once."""
        return self.flops / self.bytes

    def at(self, intensity: float) -> float:
        """Most operations per second at so many operations per byte."""
        return min(self.flops, intensity * self.bytes)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation: its operations per byte, and its operations per second as measured."""

    name: str
    precision: str
    intensity: float
    flops: float


def measure(way: Way, build: Callable[[], nn.Module], batch: int, side: int, device: str, *, steps: int = 20) -> Speed:
    """Train some steps on random images, and time them.

    Args:
        way: how.
        build: makes the network; its images have as many channels as its first convolution takes.
        batch, side: of the images.
        device: `cpu` or `cuda`.
        steps: to time; as many as a quarter of them, but at least two, go before.
    """
    torch.manual_seed(0)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = build().to(device, memory_format=layout).train()  # type: ignore[call-overload]
    channels = next(weights for weights in network.parameters() if weights.ndim == 4).shape[1]
    images = torch.rand(batch, channels, side, side, device=device).contiguous(memory_format=layout)
    labels = torch.randint(2, (batch,), device=device).float()
    numbers = Precision(way.precision, device)
    optimizer, scaler = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9), numbers.scaler()
    run: Callable[[Tensor], Any] = torch.compile(network) if way.compiled else network
    _forget_peak(device)

    def step() -> None:
        with numbers.autocast():
            found = run(images)
            logits = found[0] if isinstance(found, tuple) else found[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    with numbers.matrices():
        seconds = _median(step, device, steps, max(2, steps // 4))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Speed(way, batch / seconds, peak)


def limits(precision: str, device: str, *, small: bool = False) -> Limits:
    """The two limits of a device in some numbers.

    Args:
        precision: one of `precision.NAMES`.
        device: `cpu` or `cuda`.
        small: a short trial run.
    """
    side = 512 if small else 8192 if device == "cuda" else 2048
    length = 2**20 if small else 2**28 if device == "cuda" else 2**25
    product = _product(precision, device, side)
    adding = _adding(precision, device, length)
    return Limits(product.flops, adding.flops / adding.intensity)


def kernels(device: str, *, small: bool = False) -> list[Kernel]:
    """Some operations of networks, in fp32 and bf16: two that compute much per byte and two that compute little."""
    side, length = (256, 2**18) if small else (4096, 2**26) if device == "cuda" else (1024, 2**22)
    found: list[Kernel] = []
    for precision in ("fp32", "bf16"):
        found += [
            _product(precision, device, side),
            _convolution(precision, device, 8 if small else 64 if device == "cuda" else 8, 64),
            _depthwise(precision, device, 8 if small else 64 if device == "cuda" else 8, 64),
            _adding(precision, device, length),
        ]
    return found


def _product(precision: str, device: str, side: int) -> Kernel:
    a, b = (torch.randn(side, side, device=device, dtype=_TYPES[precision]) for _ in range(2))
    operations, moved = 2 * side**3, 3 * side**2 * _SIZES[precision]
    return _kernel("matrix product", precision, device, lambda: a @ b, operations, moved)


def _adding(precision: str, device: str, length: int) -> Kernel:
    a, b = (torch.randn(length, device=device, dtype=_TYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return _kernel("addition", precision, device, lambda: torch.add(a, b, out=out), length, 3 * length * _SIZES[precision])


def _convolution(precision: str, device: str, batch: int, channels: int, side: int = 56) -> Kernel:
    weights = torch.randn(channels, channels, 3, 3, device=device, dtype=_TYPES[precision])
    images = torch.randn(batch, channels, side, side, device=device, dtype=_TYPES[precision])
    images, weights = (at.contiguous(memory_format=torch.channels_last) for at in (images, weights))
    operations = 2 * batch * side**2 * channels**2 * 9
    moved = (2 * images.numel() + weights.numel()) * _SIZES[precision]
    return _kernel(
        "convolution 3 × 3", precision, device, lambda: functional.conv2d(images, weights, padding=1), operations, moved
    )


def _depthwise(precision: str, device: str, batch: int, channels: int, side: int = 56) -> Kernel:
    weights = torch.randn(channels, 1, 3, 3, device=device, dtype=_TYPES[precision])
    images = torch.randn(batch, channels, side, side, device=device, dtype=_TYPES[precision])
    images = images.contiguous(memory_format=torch.channels_last)
    operations = 2 * images.numel() * 9
    moved = 2 * images.numel() * _SIZES[precision]

    def call() -> Tensor:
        return functional.conv2d(images, weights, padding=1, groups=channels)

    return _kernel("depthwise convolution", precision, device, call, operations, moved)


def _kernel(name: str, precision: str, device: str, call: Callable[[], Any], operations: int, moved: int) -> Kernel:
    with Precision(precision, device).matrices():
        return Kernel(name, precision, operations / moved, operations / _median(call, device, 10, 3))


def _median(call: Callable[[], Any], device: str, repeats: int, before: int) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    times: list[float] = []
    for number in range(before + repeats):
        began = time.perf_counter()
        call()
        wait()
        if number >= before:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _nothing() -> None:
    """A CPU is done when the call returns."""


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class ResNet50(nn.Module):
    """ResNet-50 as in He et al. 2015 with the stride in the 3 × 3 convolution: the network that speed is usually told of."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        inputs = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for number in range(count):
                blocks.append(_Bottleneck(inputs, width, stride if number == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)` of images `(n, 3, h, w)`."""
        found: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return found


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.way = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, at: Tensor) -> Tensor:
        found: Tensor = functional.relu(self.way(at) + self.shortcut(at))
        return found

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
from torch.utils.flop_counter import FlopCounterMode

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
        kept_bytes: what the forward pass keeps for the backward pass, beside the weights.
    """

    way: Way
    images_per_second: float
    peak_bytes: int | None
    kept_bytes: int


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
        steps: to time; as many as a quarter of them, but at least two (one, where one is timed), go before.
    """
    network, images = _ready(way, build, batch, side, device)
    labels = torch.randint(2, (batch,), device=device).float()
    numbers = Precision(way.precision, device)
    optimizer, scaler = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9), numbers.scaler()
    run: Callable[[Tensor], Any] = torch.compile(network) if way.compiled else network
    kept = kept_bytes(way, build, batch, side, device)
    _forget_peak(device)

    def step() -> None:
        with numbers.autocast():
            loss = functional.binary_cross_entropy_with_logits(_logits(run(images)), labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    with numbers.matrices():
        seconds = statistics.median(_times(step, device, steps, min(steps, max(2, steps // 4))))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Speed(way, batch / seconds, peak, kept)


def kept_bytes(way: Way, build: Callable[[], nn.Module], batch: int, side: int, device: str) -> int:
    """What a forward pass keeps for the backward pass, beside the weights: activations, and copies of weights in 16 bits.

    Exact, for it is counted and not measured. That a compiled network may keep less is not seen here.
    """
    network, images = _ready(way, build, batch, side, device)
    own = {weights.untyped_storage().data_ptr() for weights in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), Precision(way.precision, device).autocast():
        # Kept until the end: a storage that is freed may give its address to another.
        result = _logits(network(images)).sum()
    del result
    return sum(kept.values())


def operations(build: Callable[[], nn.Module], batch: int, side: int) -> float:
    """Floating-point operations per image of a step: forward and backward pass. Nothing is computed for it."""
    with torch.device("meta"):
        network, images = _ready(Way("fp32"), build, batch, side, "meta")
        with FlopCounterMode(display=False) as counter:
            _logits(network(images)).sum().backward()
    return float(counter.get_total_flops()) / batch


def _ready(way: Way, build: Callable[[], nn.Module], batch: int, side: int, device: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = build().to(device, memory_format=layout).train()  # type: ignore[call-overload]
    channels = next(weights for weights in network.parameters() if weights.ndim == 4).shape[1]
    return network, torch.rand(batch, channels, side, side, device=device).contiguous(memory_format=layout)


def _logits(found: Any) -> Tensor:
    logits: Tensor = found[0] if isinstance(found, tuple) else found[:, 0]
    return logits


def limits(precision: str, device: str, *, small: bool = False) -> Limits:
    """The two limits of a device in some numbers: the best that was reached, for what disturbs a measurement only slows it.

    Args:
        precision: one of `precision.NAMES`.
        device: `cpu` or `cuda`.
        small: a short trial run.
    """
    side = 512 if small else 8192 if device == "cuda" else 2048
    length = 2**20 if small else 2**28 if device == "cuda" else 2**25
    product = _product(precision, device, side, best=True)
    adding = _adding(precision, device, length, best=True)
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


def _product(precision: str, device: str, side: int, best: bool = False) -> Kernel:
    a, b = (torch.randn(side, side, device=device, dtype=_TYPES[precision]) for _ in range(2))
    operations, moved = 2 * side**3, 3 * side**2 * _SIZES[precision]
    return _kernel("matrix product", precision, device, lambda: a @ b, operations, moved, best)


def _adding(precision: str, device: str, length: int, best: bool = False) -> Kernel:
    a, b = (torch.randn(length, device=device, dtype=_TYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    moved = 3 * length * _SIZES[precision]
    return _kernel("addition", precision, device, lambda: torch.add(a, b, out=out), length, moved, best)


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


def _kernel(
    name: str, precision: str, device: str, call: Callable[[], Any], operations: int, moved: int, best: bool = False
) -> Kernel:
    with Precision(precision, device).matrices():
        times = _times(call, device, 10, 3)
    return Kernel(name, precision, operations / moved, operations / (min(times) if best else statistics.median(times)))


def _times(call: Callable[[], Any], device: str, repeats: int, before: int) -> list[float]:
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    times: list[float] = []
    for number in range(before + repeats):
        began = time.perf_counter()
        call()
        wait()
        if number >= before:
            times.append(time.perf_counter() - began)
    return times


def _nothing() -> None:
    """A CPU is done when the call returns."""


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

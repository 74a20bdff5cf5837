"""In which numbers to compute: fp32, TF32, bf16 or fp16.

Owns the spelling of mixed precision that is right on a CPU and on a GPU, and on PyTorch 2.7 and newer. Never changes a setting
for longer than its block lasts.

    fp32   32 bits, the reference
    tf32   32 bits in memory, 10 bits of mantissa in a GPU's matrix units: nothing to change in the code
    bf16   16 bits with the range of fp32: no gradient underflows, so no scaler is needed
    fp16   16 bits with more mantissa and less range: small gradients vanish unless the loss is scaled up first

`torch.cuda.amp` is the old spelling and warns; `torch.amp` takes the device as its first word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

NAMES = ("fp32", "tf32", "bf16", "fp16")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """A choice of numbers for one kind of device.

    Attributes:
        name: one of `NAMES`.
        device: `cpu` or `cuda`.
    """

    name: str
    device: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"There is no precision {self.name!r}: choose one of {', '.join(NAMES)}.")

    def autocast(self) -> Any:
        """A block in which operations that bear it run in 16 bits. For the forward pass and the loss, not for the backward."""
        kind = _TYPES.get(self.name)
        return nullcontext() if kind is None else torch.amp.autocast(self.device, dtype=kind)

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients from vanishing in fp16; for the other numbers it passes everything through."""
        return torch.amp.GradScaler(self.device, enabled=self.name == "fp16")

    @contextmanager
    def matrices(self) -> Iterator[None]:
        """A block in which a GPU multiplies 32-bit matrices in TF32 or, for every other name, truly in 32 bits.

        cuDNN's convolutions use TF32 unless told otherwise, so a comparison that forgets this compares TF32 with itself.
        """
        before = _switches()
        wanted: Any = self.name == "tf32"
        if _NEW:
            wanted = "tf32" if wanted else "ieee"
        _set_switches(wanted, wanted)
        try:
            yield
        finally:
            _set_switches(*before)


def supported(name: str, device: str) -> bool:
    """Whether a device computes in these numbers, slowly or not. TF32 is of GPUs from Ampere on."""
    if device != "cuda":
        return name != "tf32"
    capable = torch.cuda.get_device_capability()[0] >= 8
    return capable or name in ("fp32", "fp16")


# PyTorch 2.9 has new names for the same two switches and dislikes mixing them with the old ones.
_NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _switches() -> tuple[Any, Any]:
    """How the switches for matrices and for convolutions stand."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return (matmul.fp32_precision, cudnn.conv.fp32_precision) if _NEW else (matmul.allow_tf32, cudnn.allow_tf32)


def _set_switches(matmul: Any, convolution: Any) -> None:
    if _NEW:
        torch.backends.cuda.matmul.fp32_precision = matmul
        torch.backends.cudnn.conv.fp32_precision = convolution
    else:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution

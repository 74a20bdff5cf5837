"""Variation: a batch of images as a camera on another day might have seen it.

Owns how images are varied and that their masks follow. Never draws a random number that its generator did not give, so that the
same seed gives the same images on every device.

Each transform is a small frozen value that is called with images `(n, c, h, w)`, masks of the same height and width or None,
and a CPU generator. Two families: *geometry* moves pixels, so masks move along; *light* changes pixels where they are, so masks
stay. Vary only in ways in which a real part varies: a mirrored scratch is a scratch, a mirrored letter is a misprint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor | None]


class Transform(Protocol):
    """What every transform is."""

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        """Varied images, and the masks that belong to them."""
        ...


@dataclass(frozen=True, slots=True)
class Chain:
    """One transform after the other."""

    steps: tuple[Transform, ...]

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        for step in self.steps:
            images, masks = step(images, masks, generator)
        return images, masks


# --- geometry: the mask follows


@dataclass(frozen=True, slots=True)
class Turn:
    """Quarter turns and mirroring: all eight ways to lay a square part down. Pixels move and are never mixed.

    On images that are not square only half turns are drawn, so that their shape stays.
    """

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        count = len(images)
        square = images.shape[2] == images.shape[3]
        turns = torch.randint(4, (count,), generator=generator) if square else 2 * torch.randint(2, (count,), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator).bool()
        return _turned(images, turns, mirrored), None if masks is None else _turned(masks, turns, mirrored)


@dataclass(frozen=True, slots=True)
class Wobble:
    """A small rotation, shift and zoom, as of a part that lies not quite where it should; what comes in at the rim is mirrored.

    Attributes:
        degrees: most rotation to either side.
        shift: most shift, as a share of the image.
        zoom: most change of scale.
    """

    degrees: float = 8.0
    shift: float = 0.05
    zoom: float = 0.1

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        draws = 2.0 * torch.rand(4, len(images), generator=generator) - 1.0
        angle, scale = draws[0] * math.radians(self.degrees), 1.0 + draws[1] * self.zoom
        ratio = images.shape[2] / images.shape[3]
        rows = torch.stack(
            [
                torch.stack([scale * angle.cos(), -scale * angle.sin() * ratio, 2.0 * self.shift * draws[2]], dim=1),
                torch.stack([scale * angle.sin() / ratio, scale * angle.cos(), 2.0 * self.shift * draws[3]], dim=1),
            ],
            dim=1,
        )
        grid = functional.affine_grid(rows, [len(images), 1, *images.shape[2:]], align_corners=False).to(images.device)
        moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if masks is None:
            return moved, None
        # Through the same grid; a pixel belongs to the defect where most of what lands on it does.
        follow = functional.grid_sample(masks.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return moved, (follow > 0.5).to(masks.dtype)


# --- light: the mask stays


@dataclass(frozen=True, slots=True)
class Light:
    """A stronger or weaker lamp, and a darker or brighter camera setting, per image.

    Attributes:
        gain: most change of the factor on the grey levels, to either side.
        offset: most change of the grey levels themselves, as a share of white.
    """

    gain: float = 0.1
    offset: float = 0.0

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        draws = (2.0 * torch.rand(2, len(images), 1, 1, 1, generator=generator) - 1.0).to(images.device)
        return images * (1.0 + self.gain * draws[0]) + self.offset * draws[1], masks


@dataclass(frozen=True, slots=True)
class Noise:
    """The sensor's noise.

    Attributes:
        deviation: its standard deviation as a share of white.
    """

    deviation: float = 0.01

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        return images + (self.deviation * torch.randn(images.shape, generator=generator)).to(images.device), masks


@dataclass(frozen=True, slots=True)
class Blur:
    """A lens a little out of focus, for a share of the images.

    Attributes:
        deviation: width of the blur in pixels.
        share: how many of the images get it.
    """

    deviation: float = 0.7
    share: float = 0.3

    def __call__(self, images: Tensor, masks: Tensor | None, generator: Generator) -> Pair:
        chosen = (torch.rand(len(images), generator=generator) < self.share).to(images.device)
        reach = max(1, math.ceil(3.0 * self.deviation))
        at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        weights = torch.exp(-(at**2) / (2.0 * self.deviation**2))
        weights = weights / weights.sum()
        channels = images.shape[1]
        padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
        across = functional.conv2d(padded, weights.expand(channels, 1, 1, -1), groups=channels)
        soft = functional.conv2d(across, weights.reshape(-1, 1).expand(channels, 1, -1, 1), groups=channels)
        return torch.where(chosen[:, None, None, None], soft, images), masks


GENTLE = Chain((Turn(), Light(), Noise()))
STRONG = Chain((Turn(), Wobble(), Light(gain=0.15, offset=0.05), Blur(), Noise()))
NOTHING = Chain(())


def _turned(images: Tensor, turns: Tensor, mirrored: Tensor) -> Tensor:
    images = images.clone()
    for quarter in (1, 2, 3):
        chosen = torch.nonzero(turns == quarter).flatten().to(images.device)
        if len(chosen):
            images[chosen] = torch.rot90(images[chosen], quarter, (2, 3))
    chosen = torch.nonzero(mirrored).flatten().to(images.device)
    images[chosen] = images[chosen].flip(3)
    return images

"""Defects drawn into an image.

Owns what each kind of defect looks like and how hard it is to see. Never touches a file, and draws the same defect for the
same random generator. Images are grey and float, 0 to 255; all lengths are in pixels.

How hard a defect is to see depends on its contrast *against the texture it lies on*, so contrast is counted in standard
deviations of that texture: on a plain sheet the same grey levels would shout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]
# A plain patch would make every defect on it invisible, a wild one would make it glare.
_DEVIATION = (12.0, 28.0)
# Some spots hide a defect, such as a smear on a plain brick: the best of a few spots is taken.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard the defects of a data set are.

    Attributes:
        contrast: lowest and highest contrast asked for, in standard deviations of the texture.
        scale: lowest and highest factor on a defect's usual size.
    """

    contrast: tuple[float, float]
    scale: tuple[float, float]


DIFFICULTIES: Mapping[str, Difficulty] = {
    "easy": Difficulty(contrast=(3.0, 4.5), scale=(1.0, 1.4)),
    "default": Difficulty(contrast=(2.0, 3.5), scale=(0.9, 1.3)),
    "hard": Difficulty(contrast=(1.0, 2.0), scale=(0.7, 1.1)),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image with a defect in it.

    Attributes:
        image: the image.
        mask: the pixels of the defect.
        contrast: root mean square change inside the mask, in standard deviations of the texture.
    """

    image: Image
    mask: Mask
    contrast: float


@dataclass(frozen=True, slots=True)
class _Brush:
    """What a painter gets to work with: contrast in grey levels, and a factor on all lengths."""

    rng: np.random.Generator
    contrast: float
    scale: float

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def length(self, low: float, high: float) -> float:
        return self.scale * self.between(low, high)

    def sign(self) -> float:
        return float(self.rng.choice((-1.0, 1.0)))


# A painter gives the changed image and how much of it to take at each pixel, 0 to 1.
_Painter = Callable[[Image, _Brush], tuple[Image, Image]]


def draw(image: Image, kind: str, difficulty: Difficulty, rng: np.random.Generator) -> Drawn:
    """Draw one defect at a random place.

    Args:
        image: the clean image.
        kind: one of `KINDS`.
        difficulty: ranges of contrast and size.
        rng: decides everything else.
    """
    deviation = float(np.clip(image.std(), *_DEVIATION))
    contrast = rng.uniform(*difficulty.contrast)
    best = Drawn(image, np.zeros(image.shape, dtype=bool), -1.0)
    for _ in range(_TRIES):
        brush = _Brush(rng, contrast * deviation, rng.uniform(*difficulty.scale))
        changed, alpha = KINDS[kind](image, brush)
        result = np.clip(image + alpha * (changed - image), 0.0, 255.0)
        mask = alpha > 0.4
        seen = float(np.sqrt(np.mean((result - image)[mask] ** 2))) / deviation if mask.any() else 0.0
        if seen > best.contrast:
            best = Drawn(result, mask, seen)
        if seen >= 0.7 * contrast and mask.sum() >= 12:
            break
    return best


def _scratch(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A thin, slightly bent line, light or dark."""
    points = _bend(image.shape, brush, length=brush.length(30, 70), bend=brush.between(-0.25, 0.25))
    alpha = _stroke(image.shape, points, width=brush.length(1.6, 2.6))
    return image + brush.sign() * 1.2 * brush.contrast, alpha


def _crack(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A dark, jagged line with a branch."""
    trunk = _walk(_centre(image.shape, brush), brush, steps=9)
    branch = _walk(tuple(trunk[len(trunk) // 2]), brush, steps=4)
    width = brush.length(1.5, 2.3)
    alpha = np.maximum(_stroke(image.shape, trunk, width), _stroke(image.shape, branch, 0.8 * width))
    return image - 1.3 * brush.contrast, alpha


def _blob(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A foreign body that hides the texture."""
    alpha = _island(image.shape, brush, radius=brush.length(5, 9), edge=0.6)
    under = float(np.average(image, weights=alpha + 1e-9))
    grain = ndimage.gaussian_filter(brush.rng.normal(size=image.shape), 1.0)
    return under + brush.sign() * 1.4 * brush.contrast + 0.5 * brush.contrast * grain, alpha


def _pit(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A small dark hole with a bright rim."""
    distance = _from(image.shape, _centre(image.shape, brush))
    radius = brush.length(2.5, 4.0)
    hole = np.exp(-((distance / radius) ** 2))
    rim = np.exp(-(((distance - 1.8 * radius) / (0.6 * radius)) ** 2))
    alpha = np.clip(2.4 * radius - distance + 0.5, 0.0, 1.0)
    return image + brush.contrast * (1.1 * rim - 2.0 * hole), alpha


def _stain(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A large soft patch, darker or lighter; the texture shows through."""
    alpha = _island(image.shape, brush, radius=brush.length(11, 18), edge=2.5)
    return image + brush.sign() * 0.8 * brush.contrast, alpha


def _smear(image: Image, brush: _Brush) -> tuple[Image, Image]:
    """A patch in which the texture is wiped away; its mean stays."""
    alpha = _island(image.shape, brush, radius=brush.length(10, 15), edge=1.5)
    return ndimage.gaussian_filter(image, brush.length(3.5, 5.0)), alpha


KINDS: Mapping[str, _Painter] = {
    "scratch": _scratch,
    "crack": _crack,
    "blob": _blob,
    "pit": _pit,
    "stain": _stain,
    "smear": _smear,
}


def _centre(shape: tuple[int, ...], brush: _Brush) -> tuple[float, float]:
    return brush.between(0.2, 0.8) * shape[0], brush.between(0.2, 0.8) * shape[1]


def _from(shape: tuple[int, ...], centre: tuple[float, float]) -> Image:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2)


def _bend(shape: tuple[int, ...], brush: _Brush, length: float, bend: float) -> Image:
    """Points of a parabola through a random centre; `bend` is its sagitta as a share of its length."""
    along = np.linspace(-0.5, 0.5, 16)
    across = bend * (1.0 - 4.0 * along**2)
    angle = brush.between(0.0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points: Image = length * np.stack([across, along], axis=1) @ turn.T + np.array(_centre(shape, brush))
    return points


def _walk(start: tuple[float, ...], brush: _Brush, steps: int) -> Image:
    angle = brush.between(0.0, 2.0 * np.pi) + np.cumsum(brush.rng.normal(0.0, 0.6, steps))
    length = brush.scale * brush.rng.uniform(3.0, 8.0, steps)
    moves = np.stack([length * np.sin(angle), length * np.cos(angle)], axis=1)
    points: Image = np.array(start) + np.vstack([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    return points


def _stroke(shape: tuple[int, ...], points: Image, width: float) -> Image:
    """A line of that width along the points, with soft edges."""
    grid = np.moveaxis(np.indices(shape).astype(float), 0, -1)
    nearest = np.full(shape, np.inf)
    for begin, end in pairwise(points):
        piece = end - begin
        share = np.clip((grid - begin) @ piece / max(float(piece @ piece), 1e-9), 0.0, 1.0)
        nearest = np.minimum(nearest, np.linalg.norm(grid - begin - share[..., None] * piece, axis=-1))
    return np.clip(width / 2 + 0.5 - nearest, 0.0, 1.0)


def _island(shape: tuple[int, ...], brush: _Brush, radius: float, edge: float) -> Image:
    """An irregular round patch; `edge` is how soft its border is."""
    centre = _centre(shape, brush)
    y, x = np.ogrid[: shape[0], : shape[1]]
    around = np.arctan2(y - centre[0], x - centre[1])
    reach = np.full(shape, radius)
    for waves in (2, 3, 5):
        reach = reach + radius * brush.between(0.0, 0.3) / waves**0.5 * np.cos(waves * around + brush.between(0.0, 2 * np.pi))
    inside = (_from(shape, centre) < reach).astype(float)
    patch: Image = ndimage.gaussian_filter(inside, edge)
    return patch

"""Finding what is unusual, from good parts alone.

Owns a detector that remembers how good surfaces look, place by place, and scores a new place by its distance to the nearest
memory. Never sees a defect while it learns, and never changes a weight of the network whose features it compares.

The idea is PatchCore's: features from the middle of a network that learnt on other images, averaged over a small
neighbourhood; a memory of them, thinned out so that what remains covers all of it; and distances.

ref: Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection", arXiv 2106.08265.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Generator, Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from defectlab import backbone
from defectlab.data import DataSet
from defectlab.features import sized

BATCH = 32
# Rows per block of the table of distances: bounds its memory.
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """How to remember and to compare.

    Attributes:
        size: side in pixels that images are brought to.
        stages: stages of the network whose maps are laid upon each other; the first gives the step of the places.
        around: side of the square of places that are averaged, so that a place knows its neighbours; 1 averages none.
        sampled: places drawn at random from all good images.
        bank: places that remain of them, chosen so that none of the others is far from all of these.
        worst: number of places of a map that make the image's score.
        even_light: bring each image to the same mean and contrast first. False where brightness itself tells of a defect.
        seed: start of the random numbers.
    """

    size: int = 192
    stages: tuple[int, ...] = (3, 4)
    around: int = 1
    sampled: int = 20_000
    bank: int = 2_000
    worst: int = 10
    even_light: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Detector:
    """What good parts look like.

    Attributes:
        settings: how it was made.
        network: gives the features.
        bank: the remembered places, `(bank, channels)`, whitened.
        mean: per channel, over the places that were sampled.
        white: `(channels, channels)`, makes the sampled places as wide in every direction: what rarely varies counts as much as
            what always does.
    """

    settings: Settings
    network: backbone.Lite0
    bank: Tensor
    mean: Tensor
    white: Tensor

    def scores(self, data: DataSet, *, progress: bool = True) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores `(n,)` and maps `(n, h, w)`, as distances: 0 is exactly as remembered, and there is no upper end."""
        found: list[NDArray[np.float32]] = []
        steps = -(-len(data) // BATCH)
        for images in tqdm(
            batches(data, self.bank.device), total=steps, desc="scoring", unit=" batches", disable=None if progress else True
        ):
            places = _places(self.network, images, self.settings)
            count, height, width, channels = places.shape
            rows = (places.reshape(-1, channels) - self.mean) @ self.white
            found.append(nearest(rows, self.bank).reshape(count, height, width).cpu().numpy())
        maps = np.concatenate(found)
        flat = np.sort(maps.reshape(len(maps), -1), axis=1)
        return flat[:, -self.settings.worst :].mean(axis=1), maps


def fit(
    good: DataSet, settings: Settings | None = None, device: torch.device | str = "cpu", *, progress: bool = True
) -> Detector:
    """Remember good parts.

    Args:
        good: images without a defect.
        settings: how.
        device: where to compute.
        progress: show a bar.

    Raises:
        ValueError: an image is labelled defective, or there is none.
        WeightsError: the network's weights are not installed.
    """
    settings = settings or Settings()
    if not len(good) or good.labels.any():
        raise ValueError("This detector learns from good parts alone: give data.take(np.flatnonzero(~data.labels)).")
    network = backbone.pretrained(max(settings.stages) + 1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = Generator().manual_seed(settings.seed)
    per_image = -(-settings.sampled // len(good))
    rows: list[Tensor] = []
    steps = -(-len(good) // BATCH)
    for images in tqdm(
        batches(good, device), total=steps, desc="remembering", unit=" batches", disable=None if progress else True
    ):
        places = _places(network, images, settings).flatten(1, 2)
        for one in places:
            rows.append(one[torch.randperm(len(one), generator=generator)[:per_image].to(one.device)])
    sample = torch.cat(rows)
    mean = sample.mean(dim=0)
    white = _whitening(sample - mean)
    sample = (sample - mean) @ white
    return Detector(settings, network, sample[spread_out(sample, settings.bank, generator)], mean, white)


def _whitening(centred: Tensor) -> Tensor:
    """A matrix that makes rows uncorrelated and of deviation 1, but for a little, so that noise is not blown up."""
    spread = centred.std(dim=0).clamp_min(1e-6)
    scaled = centred / spread
    covariance = scaled.T @ scaled / len(scaled) + 0.01 * torch.eye(len(spread)).to(scaled)
    found: Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance)).T / spread[:, None]
    return found


def spread_out(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Indices of points that cover all of them: each next one is the farthest from those before (greedy k-centre).

    Distances are taken in a random projection to 128 dimensions, which keeps them well enough and is many times quicker.

    Args:
        points: `(n, channels)`.
        count: how many to choose; all of them where there are no more.
        generator: decides the first one and the projection.
    """
    if count >= len(points):
        return torch.arange(len(points), device=points.device)
    wide = points.shape[1]
    if wide > 128:
        points = points @ (torch.randn(wide, 128, generator=generator) / 128**0.5).to(points)
    squares = (points**2).sum(dim=1)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    away = torch.full_like(squares, torch.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        away = torch.minimum(away, squares + squares[last] - 2.0 * (points @ points[last]))
        # Rounding may leave a chosen point a hair away from itself.
        away[last] = -torch.inf
        chosen.append(int(away.argmax()))
    return torch.tensor(chosen, device=points.device)


def thinned(detector: Detector, count: int) -> Detector:
    """The same detector with a smaller memory; the first chosen places are those that cover most."""
    return replace(detector, bank=detector.bank[:count], settings=replace(detector.settings, bank=min(count, len(detector.bank))))


def nearest(rows: Tensor, bank: Tensor) -> Tensor:
    """Distance of every row to the nearest one of the bank, per channel: so that more channels do not mean more distance."""
    squares = (bank**2).sum(dim=1)
    found = [
        ((part**2).sum(dim=1) + (squares - 2.0 * (part @ bank.T)).min(dim=1).values).clamp_min(0.0) for part in rows.split(_ROWS)
    ]
    return (torch.cat(found) / bank.shape[1]).sqrt()


def smoothed(maps: NDArray[np.float32], deviation: float = 1.0) -> NDArray[np.float32]:
    """Maps blurred a little, as a defect rarely is a single place."""
    return np.stack([ndimage.gaussian_filter(one, deviation) for one in maps]).astype(np.float32)


def prepared(images: Tensor, settings: Settings) -> Tensor:
    """Images `(n, 1, height, width)` of 0 to 1 as the network gets them."""
    if settings.even_light:
        # To the middle of ImageNet's greys and a usual contrast: another lamp or exposure is nothing unusual.
        deviation = images.std(dim=(2, 3), keepdim=True) + 0.02
        images = (0.5 + 0.2 * (images - images.mean(dim=(2, 3), keepdim=True)) / deviation).clamp(0.0, 1.0)
    return sized(images, settings.size).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def batches(data: DataSet, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Images a few at a time, `(n, 1, height, width)`, 0 to 1."""
    for start in range(0, len(data), BATCH):
        yield torch.from_numpy(data.images[start : start + BATCH]).to(device).float().div_(255.0).unsqueeze(1)


@torch.inference_mode()
def _places(network: backbone.Lite0, images: Tensor, settings: Settings) -> Tensor:
    """Features place by place, `(n, h, w, channels)`."""
    maps = network(prepared(images, settings))
    first = maps[settings.stages[0]]
    laid: list[Tensor] = []
    for stage in settings.stages:
        at = functional.avg_pool2d(maps[stage], settings.around, stride=1, padding=settings.around // 2, count_include_pad=False)
        laid.append(functional.interpolate(at, size=first.shape[2:], mode="bilinear", align_corners=False))
    return torch.cat(laid, dim=1).permute(0, 2, 3, 1).float()

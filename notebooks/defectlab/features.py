"""A network that learnt on other images, used as it is: each image becomes a row of numbers.

Owns extracting, keeping and judging such features. Never changes a weight of the network, and never chooses anything by test
images. It is the first thing to try on a new data set: minutes instead of hours, and hard to get wrong.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from defectlab import backbone, files, metrics
from defectlab.data import DataSet

BATCH = 64
_CACHED_PIXELS = 750_000
VERSION = 1
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How images become features.

    Attributes:
        size: side in pixels that images are brought to.
        stages: which stages of the network are read; early ones see fine detail, late ones see more around it.
    """

    size: int = 160
    stages: tuple[int, ...] = (1, 2, 3, 4, 5)

    @property
    def length(self) -> int:
        """How many numbers an image becomes."""
        return 3 * sum(backbone.CHANNELS[stage] for stage in self.stages)


def extract(
    data: DataSet,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> Features:
    """Features of every image, `(n, recipe.length)`.

    Of every channel three numbers are kept: its mean over the image, its spread, and its highest value. A small defect hardly
    moves a mean, but it is the highest value somewhere.

    Args:
        data: the images.
        recipe: how.
        device: where to compute.
        cache: a folder to keep features in; the same images, recipe and weights are never computed twice.
        progress: show a bar.

    Raises:
        WeightsError: the network's weights are not installed.
    """
    recipe = recipe or Recipe()
    kept = None if cache is None else cache / f"features-{_key(data, recipe)}.npy"
    if kept is not None and (found := _kept(kept, (len(data), recipe.length))) is not None:
        return found
    model = backbone.pretrained(max(recipe.stages) + 1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows: list[Features] = []
    batch = batch_size(recipe.size, device)
    for start in tqdm(range(0, len(data), batch), desc="features", unit=" batches", disable=None if progress else True):
        images = torch.from_numpy(data.images[start : start + batch]).to(device).float().div_(255.0).unsqueeze(1)
        rows.append(_pooled(model, sized(images, recipe.size), recipe.stages).cpu().numpy())
    features = np.concatenate(rows) if rows else np.zeros((0, recipe.length), dtype=np.float32)
    if kept is not None:
        _keep(kept, features)
    return features


def from_sides(
    data: DataSet,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> Features:
    """Features of every image as it is, mirrored, and upside down: `(3, n, recipe.length)`.

    For what has no left and no upper side, such as a solar cell. See `extract` for the arguments.

    Raises:
        WeightsError: the network's weights are not installed.
    """
    turned = (data.images, data.images[:, :, ::-1], data.images[:, ::-1, :])
    sides = [replace(data, images=np.ascontiguousarray(images)) for images in turned]
    return np.stack([extract(side, recipe, device, cache=cache, progress=progress) for side in sides])


def batch_size(size: int, device: torch.device | str = "cpu") -> int:
    """How many images of this side go through the network at once.

    What a CPU computes on should fit its cache: at 300 pixels, batches of 64 took 77 ms per image on two cores, batches of 8 took
    28 ms.
    """
    return BATCH if torch.device(device).type != "cpu" else max(1, min(BATCH, _CACHED_PIXELS // size**2))


def sized(images: Tensor, size: int) -> Tensor:
    """Images brought to a side of `size` pixels."""
    if images.shape[2:] == (size, size):
        return images
    larger = size > images.shape[2]
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=not larger, align_corners=False)


@dataclass(frozen=True, slots=True)
class Linear:
    """A weighted sum of features as a detector.

    Attributes:
        pipeline: scaling and logistic regression.
        strength: the regularisation that was chosen; lower is stronger.
        tried: cross-validated AUROC of every strength that was tried; empty where there was none to choose from.
    """

    pipeline: Pipeline
    strength: float
    tried: dict[float, float]

    def scores(self, features: Features) -> NDArray[np.float32]:
        """One score per image, as a probability; a high one means a defect."""
        found: NDArray[np.float32] = self.pipeline.predict_proba(features)[:, 1].astype(np.float32)
        return found


def fit(features: Features, data: DataSet, strengths: tuple[float, ...] = STRENGTHS, *, folds: int = 4) -> Linear:
    """Logistic regression, its regularisation chosen by cross-validation that keeps groups together.

    Args:
        features: of the training images, as `extract` gives them.
        data: the same images; their labels and groups are used.
        strengths: values of the regularisation to try; a single one is taken as it is.
        folds: parts of the cross-validation.
    """
    tried: dict[float, float] = {}
    if len(strengths) > 1:
        tried = {strength: metrics.auroc(data.labels, held_out(features, data, strength, folds=folds)) for strength in strengths}
    best = max(tried, key=lambda strength: tried[strength], default=strengths[0])
    return Linear(_fitted(best, features, data.labels), best, tried)


def held_out(features: Features, data: DataSet, strength: float, *, folds: int = 4) -> NDArray[np.float64]:
    """The probability of a defect in every image, each from a model that has learnt from other groups only.

    Args:
        features: of the images, as `extract` gives them.
        data: the same images; their labels and groups are used.
        strength: of the regularisation; lower is stronger.
        folds: parts of the cross-validation.
    """
    labels, groups = data.labels, np.array([record.group for record in data.records])
    found = np.zeros(len(labels))
    for inside, outside in GroupKFold(n_splits=folds).split(features, labels, groups):
        fitted = _fitted(strength, features[inside], labels[inside])
        found[outside] = fitted.predict_proba(features[outside])[:, 1]
    return found


def _fitted(strength: float, features: Features, labels: NDArray[np.bool_]) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    # The steps are so small that threads only wait for each other, by spinning: on two busy cores 0.6 s, and 0.01 s with one.
    with threadpool_limits(1):
        return pipeline.fit(features, labels)


@torch.inference_mode()
def _pooled(model: backbone.Lite0, images: Tensor, stages: tuple[int, ...]) -> Tensor:
    maps = model(images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))
    found: list[Tensor] = []
    for stage in stages:
        at = maps[stage].float()
        found += [at.mean(dim=(2, 3)), at.std(dim=(2, 3)), at.amax(dim=(2, 3))]
    return torch.cat(found, dim=1)


def _key(data: DataSet, recipe: Recipe) -> str:
    total = hashlib.sha256(f"{VERSION} {recipe} {backbone.WEIGHTS_SHA256} {data.images.shape}".encode())
    total.update(np.ascontiguousarray(data.images).tobytes())
    return total.hexdigest()[:20]


def _kept(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        found: Features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float32 else None


def _keep(path: Path, features: Features) -> None:
    content = io.BytesIO()
    np.save(content, features, allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, content.getvalue())
    except OSError:
        # A cache that cannot be written costs time, and nothing else.
        return

"""The training loop.

Owns how a network learns: batches, variation, loss, learning rate, when to stop. Never looks at test data, and gives the same
weights for the same seed on the same machine.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from defectlab.data import DataSet

BATCH_FOR_SCORES = 128


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train.

    Attributes:
        epochs: most times that every image is seen.
        batch: images per step.
        rate: highest learning rate; it rises at first and falls to almost nothing at the end.
        decay: weight decay.
        patience: stop after so many epochs without a lower validation loss.
        map_weight: weight of the loss on the map, where masks are known. Most places are good, so their mean loss is small.
        seed: decides first weights, order and variation.
    """

    epochs: int = 25
    batch: int = 32
    rate: float = 4e-3
    decay: float = 1e-3
    patience: int = 10
    map_weight: float = 8.0
    seed: int = 0


@dataclass(slots=True)
class History:
    """What happened, epoch by epoch.

    Attributes:
        train_loss: mean loss on the varied training images.
        validation_loss: mean loss on the validation images.
        best: number of the epoch with the lowest validation loss, from 0; its weights were kept.
        seconds: the whole training.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0


def seed_everything(seed: int) -> None:
    """Start all random numbers of Python, NumPy and PyTorch from one seed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(
    model: nn.Module,
    train: DataSet,
    validation: DataSet,
    settings: Settings,
    device: torch.device | str = "cpu",
    *,
    progress: bool = True,
) -> History:
    """Train a model in place, and leave it with the weights of its best epoch."""
    seed_everything(settings.seed)
    began = time.perf_counter()
    model.to(device)
    images, labels, maps = _tensors(train, device)
    checks = _tensors(validation, device)
    steps = -(-len(train) // settings.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.epochs * steps)
    history, kept = History(), copy.deepcopy(model.state_dict())
    bar = tqdm(total=settings.epochs * steps, desc="training", unit=" steps", disable=None if progress else True)
    with bar:
        for epoch in range(settings.epochs):
            model.train()
            total = 0.0
            for chosen in _batches(len(train), settings.batch, device):
                batch, targets = _varied(images[chosen], None if maps is None else maps[chosen])
                loss = _loss(model(batch), labels[chosen], targets, settings.map_weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen)
                bar.update()
            history.train_loss.append(total / len(train))
            history.validation_loss.append(_validate(model, checks, settings))
            if history.validation_loss[-1] <= min(history.validation_loss):
                history.best, kept = epoch, copy.deepcopy(model.state_dict())
            bar.set_postfix_str(f"epoch {epoch + 1}, validation loss {history.validation_loss[-1]:.3f}")
            if epoch - history.best >= settings.patience:
                break
    model.load_state_dict(kept)
    history.seconds = time.perf_counter() - began
    return history


@torch.no_grad()
def scores(
    model: nn.Module, data: DataSet, device: torch.device | str = "cpu", *, progress: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores and maps of images as probabilities, `(n,)` and `(n, h, w)`; a high score means a defect."""
    model.to(device).eval()
    found: list[NDArray[np.float32]] = []
    places: list[NDArray[np.float32]] = []
    starts = range(0, len(data), BATCH_FOR_SCORES)
    for start in tqdm(starts, desc="scoring", unit=" batches", disable=None if progress else True):
        batch = _to_tensor(data.images[start : start + BATCH_FOR_SCORES], device)
        logits, maps = model(batch)
        found.append(logits.sigmoid().cpu().numpy())
        places.append(maps.sigmoid().cpu().numpy())
    return np.concatenate(found), np.concatenate(places)


def _to_tensor(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    return torch.from_numpy(images).to(device).float().div_(255.0).unsqueeze(1)


def _tensors(data: DataSet, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor | None]:
    labels = torch.from_numpy(data.labels).float().to(device)
    masks = None if data.masks is None else torch.from_numpy(data.masks).float().to(device).unsqueeze(1)
    return _to_tensor(data.images, device), labels, masks


def _batches(count: int, size: int, device: torch.device | str) -> Iterator[Tensor]:
    # Drawn on the CPU, so that the order does not depend on the device.
    yield from torch.randperm(count).to(device).split(size)


def _varied(images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A batch as a camera on another day might see it: turned, mirrored, in other light. Masks turn along."""
    turns, mirrored = torch.randint(4, (len(images),)), torch.randint(2, (len(images),)).bool()
    images = _turned(images, turns, mirrored)
    masks = None if masks is None else _turned(masks, turns, mirrored)
    gain = 1.0 + 0.2 * (torch.rand(len(images), 1, 1, 1) - 0.5)
    noise = 0.01 * torch.randn(images.shape)
    return images * gain.to(images.device) + noise.to(images.device), masks


def _turned(images: Tensor, turns: Tensor, mirrored: Tensor) -> Tensor:
    images = images.clone()
    for quarter in (1, 2, 3):
        chosen = torch.nonzero(turns == quarter).flatten().to(images.device)
        images[chosen] = torch.rot90(images[chosen], quarter, (2, 3))
    chosen = torch.nonzero(mirrored).flatten().to(images.device)
    images[chosen] = images[chosen].flip(3)
    return images


def _loss(output: tuple[Tensor, Tensor], labels: Tensor, masks: Tensor | None, map_weight: float) -> Tensor:
    logits, maps = output
    loss = functional.binary_cross_entropy_with_logits(logits, labels)
    if masks is None or map_weight == 0:
        return loss
    # A place is fully defective from an eighth of its area on: a line one pixel wide covers no more.
    wanted = (8.0 * functional.adaptive_avg_pool2d(masks, (maps.shape[1], maps.shape[2])).squeeze(1)).clamp(max=1.0)
    return loss + map_weight * functional.binary_cross_entropy_with_logits(maps, wanted)


@torch.no_grad()
def _validate(model: nn.Module, data: tuple[Tensor, Tensor, Tensor | None], settings: Settings) -> float:
    model.eval()
    images, labels, masks = data
    total = 0.0
    for chosen in torch.arange(len(images), device=images.device).split(BATCH_FOR_SCORES):
        targets = None if masks is None else masks[chosen]
        total += _loss(model(images[chosen]), labels[chosen], targets, settings.map_weight).item() * len(chosen)
    return total / len(images)

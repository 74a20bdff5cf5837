"""The training loop.

Owns how a network learns: batches, variation, loss, numbers to compute in, learning rate, when to stop, and going on after an
interruption. Never looks at test data, and gives the same weights for the same seed on the same machine, also when it was cut
off in between.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from defectlab.checkpoint import Checkpoint, Stateful
from defectlab.data import DataSet
from defectlab.model import parameter_groups
from defectlab.precision import Precision
from defectlab.transforms import GENTLE, NOTHING, STRONG, Chain

BATCH_FOR_SCORES = 128
VARIATIONS: dict[str, Chain] = {"none": NOTHING, "gentle": GENTLE, "strong": STRONG}


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
        seed: decides order and variation; for first weights, call `seed_everything` before building the network.
        variation: one of `VARIATIONS`.
        precision: one of `precision.NAMES`.
        channels_last: keep the channels of a pixel side by side, which is how convolutions like it best.
    """

    epochs: int = 25
    batch: int = 32
    rate: float = 4e-3
    decay: float = 1e-3
    patience: int = 10
    map_weight: float = 8.0
    seed: int = 0
    variation: str = "gentle"
    precision: str = "fp32"
    channels_last: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: number of the epoch, from 1.
        epochs: most epochs there will be.
        step, steps: steps done, and in all.
        train_loss: mean of this epoch so far.
        validation_loss: of the last whole epoch; None before.
        seconds: since the training began, or went on.
        images_per_second: over this run.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    train_loss: float
    validation_loss: float | None
    seconds: float
    images_per_second: float


class Stopped(Exception):
    """The training was asked to stop; its checkpoint has what it had learnt by the last whole epoch."""


Watch = Callable[[Progress], None]


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
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> History:
    """Train a model in place, and leave it with the weights of its best epoch.

    Args:
        model: images in, score and map of scores out.
        train: what to learn from.
        validation: what decides which epoch's weights are kept, and when to stop.
        settings: how.
        device: where.
        progress: show a bar.
        checkpoint: a file that is written after every epoch and removed at the end. Where it exists, training goes on from it.
        watch: is told of every step; what it raises ends the training.

    Raises:
        CheckpointError: the checkpoint cannot be written, or belongs to another training.
    """
    seed_everything(settings.seed)
    run = _Run(model, train, validation, settings, torch.device(device))
    keep = None
    if checkpoint is not None:
        identity = {"settings": asdict(settings), "data": [train.digest, len(train), validation.digest, len(validation)]}
        keep = Checkpoint(checkpoint, json.dumps(identity, sort_keys=True))
        run.take_up(keep.resume(run.parts, run.generator))
    done = len(run.history.train_loss) * run.steps
    bar = tqdm(
        total=settings.epochs * run.steps, initial=done, desc="training", unit=" steps", disable=None if progress else True
    )
    with bar, run.precision.matrices():
        for epoch in range(len(run.history.train_loss), settings.epochs):
            if epoch - run.history.best > settings.patience:
                break
            for told in run.epoch(epoch):
                bar.update()
                if watch is not None:
                    watch(told)
            bar.set_postfix_str(f"epoch {epoch + 1}, validation loss {run.history.validation_loss[-1]:.3f}")
            if keep is not None:
                keep.save(run.parts, run.generator, run.more())
    model.load_state_dict(run.kept)
    if keep is not None:
        keep.remove()
    run.history.seconds = run.seconds()
    return run.history


class _Run:
    """One training on its way."""

    def __init__(self, model: nn.Module, train: DataSet, validation: DataSet, settings: Settings, device: torch.device) -> None:
        self.settings, self.device, self.count = settings, device, len(train)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.data, self.checks = _tensors(train, device), _tensors(validation, device)
        self.steps = -(-self.count // settings.batch)
        self.precision = Precision(settings.precision, device.type)
        self.scaler = self.precision.scaler()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings.rate), weight_decay=settings.decay)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=settings.epochs * self.steps)
        # On the CPU, so that order and variation do not depend on the device.
        self.generator = Generator().manual_seed(settings.seed)
        self.history, self.kept = History(), copy.deepcopy(model.state_dict())
        self.began, self.before = time.perf_counter(), 0.0

    @property
    def parts(self) -> dict[str, Stateful]:
        """Everything with a state of its own."""
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def more(self) -> dict[str, Any]:
        self.history.seconds = self.seconds()
        return {"history": asdict(self.history), "kept": self.kept}

    def take_up(self, more: dict[str, Any] | None) -> None:
        if more is not None:
            self.history, self.kept = History(**more["history"]), more["kept"]
            self.before = self.history.seconds

    def epoch(self, number: int) -> Iterator[Progress]:
        """Every training image once, then the validation images; tells of every step."""
        self.model.train()
        images, labels, maps = self.data
        vary = VARIATIONS[self.settings.variation]
        total, seen, began = 0.0, 0, time.perf_counter()
        last = self.history.validation_loss[-1] if self.history.validation_loss else None
        for step, drawn in enumerate(torch.randperm(self.count, generator=self.generator).split(self.settings.batch), start=1):
            chosen = drawn.to(self.device)
            batch, targets = vary(images[chosen], None if maps is None else maps[chosen], self.generator)
            total += self._step(batch, labels[chosen], targets) * len(chosen)
            seen += len(chosen)
            here = time.perf_counter()
            yield Progress(
                epoch=number + 1, epochs=self.settings.epochs, step=number * self.steps + step,
                steps=self.settings.epochs * self.steps, train_loss=total / seen, validation_loss=last,
                seconds=self.seconds(), images_per_second=seen / (here - began),
            )  # fmt: skip
        self.history.train_loss.append(total / self.count)
        self.history.validation_loss.append(_validate(self.model, self.checks, self.settings))
        if self.history.validation_loss[-1] <= min(self.history.validation_loss):
            self.history.best, self.kept = number, copy.deepcopy(self.model.state_dict())

    def _step(self, batch: Tensor, labels: Tensor, targets: Tensor | None) -> float:
        if self.settings.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with self.precision.autocast():
            value = loss(self.model(batch), labels, targets, self.settings.map_weight)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # A scaler skips the step whose gradients overflowed; then the schedule must not go on alone.
        if self.scaler.get_scale() >= scale:
            self.schedule.step()
        return value.item()


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


def loss(output: tuple[Tensor, Tensor], labels: Tensor, masks: Tensor | None, map_weight: float) -> Tensor:
    """What training makes small: wrong scores and, where masks are known, wrong places.

    Args:
        output: scores `(n,)` and maps `(n, h, w)` of the network, as logits.
        labels: 1 where there is a defect, `(n,)`.
        masks: pixels of the defects, `(n, 1, height, width)`; None where they are unknown.
        map_weight: weight of the places against the scores.
    """
    logits, maps = output
    wrong = functional.binary_cross_entropy_with_logits(logits, labels)
    if masks is None or map_weight == 0:
        return wrong
    # A place is fully defective from an eighth of its area on: a line one pixel wide covers no more.
    wanted = (8.0 * functional.adaptive_avg_pool2d(masks, (maps.shape[1], maps.shape[2])).squeeze(1)).clamp(max=1.0)
    return wrong + map_weight * functional.binary_cross_entropy_with_logits(maps, wanted)


@torch.no_grad()
def _validate(model: nn.Module, data: tuple[Tensor, Tensor, Tensor | None], settings: Settings) -> float:
    model.eval()
    images, labels, masks = data
    total = 0.0
    for chosen in torch.arange(len(images), device=images.device).split(BATCH_FOR_SCORES):
        targets = None if masks is None else masks[chosen]
        total += loss(model(images[chosen]), labels[chosen], targets, settings.map_weight).item() * len(chosen)
    return total / len(images)

"""Judging on every image once: cross-validation, at random and by blocks.

Owns who is trained on and who is judged in each round, and how alike neighbours are. Never fits anything itself, and never lets
an image be judged by a model that was trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

Folds = NDArray[np.int64]
Indices = NDArray[np.intp]
Scores = NDArray[np.float64]


def stratified(kinds: Sequence[Hashable], parts: int = 5, *, seed: int = 0) -> Folds:
    """The part that each image falls into, drawn at random, with equal shares of every kind in each.

    Args:
        kinds: one per image, such as its label, or its label and its source.
        parts: how many parts.
        seed: start of the random numbers.

    Raises:
        ValueError: a kind has fewer images than there are parts.
    """
    known = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    numbers = np.array([known[kind] for kind in kinds])
    if not len(numbers) or np.bincount(numbers).min() < parts:
        raise ValueError(f"Every kind needs at least {parts} images, one for each part.")
    found = np.zeros(len(numbers), dtype=np.int64)
    rounds = StratifiedKFold(n_splits=parts, shuffle=True, random_state=seed).split(numbers, numbers)
    for part, (_, judged) in enumerate(rounds):
        found[judged] = part
    return found


def blocks(groups: Sequence[str], parts: int = 5) -> Folds:
    """The part that each image falls into, neighbours together: the order is cut into `parts` runs, and no group is cut.

    Args:
        groups: one per image, in the order in which the images were taken; images of one group follow each other.
        parts: how many parts.

    Raises:
        ValueError: there are fewer groups than parts, or a group is scattered.
    """
    starts = [at for at in range(len(groups)) if at == 0 or groups[at] != groups[at - 1]]
    if len(starts) != len(set(groups)):
        raise ValueError("Images of one group do not follow each other, so their order says nothing.")
    if len(starts) < parts:
        raise ValueError(f"{len(starts)} groups cannot be cut into {parts} parts.")
    found = np.zeros(len(groups), dtype=np.int64)
    part, sizes = 0, np.diff([*starts, len(groups)])
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        # On to the next part when this one has its share, or when the groups that are left are just enough for the others.
        full = start + size / 2 >= (part + 1) * len(groups) / parts
        if number and part < parts - 1 and (full or len(starts) - number < parts - part) and np.any(found[:start] == part):
            part += 1
        found[start : start + size] = part
    return found


def held_out(folds: Folds, judge: Callable[[Indices, Indices], Scores]) -> Scores:
    """The score of every image by a model that did not see it.

    Args:
        folds: the part of each image.
        judge: fits on the images of the first argument and gives the scores of those of the second.
    """
    found = np.full(len(folds), np.nan)
    for part in np.unique(folds):
        inside, outside = np.flatnonzero(folds != part), np.flatnonzero(folds == part)
        found[outside] = judge(inside, outside)
    return found


def nearest(features: NDArray[np.float32]) -> Indices:
    """The image that looks most like each image, other than itself: the one with the highest correlation of features."""
    centred = features - features.mean(axis=0)
    centred /= np.maximum(features.std(axis=0), 1e-6)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    likeness = centred @ centred.T
    np.fill_diagonal(likeness, -np.inf)
    found: Indices = likeness.argmax(axis=1)
    return found

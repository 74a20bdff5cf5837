"""Support vector machines that vote, each with a view of its own: the strongest thing to do with frozen features on a CPU.

Owns fitting them and their vote. Never extracts a feature (`features` does), and never sees an image that it shall judge.

A *view* is what one recipe made of every image, from several sides: `(sides, n, length)`. Every side is a training row of its
own, and the score of an image is the mean over its sides. Doubtful labels count less, by a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from defectlab.features import Features

# So far from the mean, in standard deviations, a feature says "very", and not how very.
_VERY = 6.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How each member is made.

    Attributes:
        components: main directions of the features that are kept.
        even: how far the directions are brought to the same spread: 0 leaves them, 1 makes them equal.
        strictness: what a training row on the wrong side costs (the C of support vector machines).
    """

    components: int = 200
    even: float = 0.5
    strictness: float = 3.0


@dataclass(frozen=True, slots=True)
class Member:
    """One machine and how features are brought to it."""

    scale: StandardScaler
    reduce: PCA
    stretch: NDArray[np.float64]
    machine: SVC
    spread: float

    def votes(self, view: Features) -> NDArray[np.float64]:
        """One number per image, above 0 for a defect; the mean over the sides."""
        each = [self.machine.decision_function(_brought(side, self.scale, self.reduce) * self.stretch) for side in view]
        found: NDArray[np.float64] = np.mean(each, axis=0) / self.spread
        return found


@dataclass(frozen=True, slots=True)
class Committee:
    """Members with equal votes."""

    members: tuple[Member, ...]

    def scores(self, views: Sequence[Features]) -> NDArray[np.float64]:
        """One score per image, above 0 for a defect.

        Args:
            views: of the images to judge, in the order in which the committee was fitted.

        Raises:
            ValueError: there are not as many views as members.
        """
        with threadpool_limits(1):
            each = [member.votes(view) for member, view in zip(self.members, views, strict=True)]
        found: NDArray[np.float64] = np.mean(each, axis=0)
        return found


def fit(
    views: Sequence[Features], labels: ArrayLike, weights: ArrayLike | None = None, settings: Settings | None = None
) -> Committee:
    """One machine per view.

    Args:
        views: of the training images.
        labels: True where there is a defect.
        weights: how much each label counts; all the same where not given.
        settings: how each member is made.
    """
    bad = np.asarray(labels, dtype=bool)
    sure = np.ones(len(bad)) if weights is None else np.asarray(weights, dtype=np.float64)
    # Threads of such small steps mostly wait for each other, by spinning.
    with threadpool_limits(1):
        return Committee(tuple(_member(view, bad, sure, settings or Settings()) for view in views))


def _member(view: Features, bad: NDArray[np.bool_], sure: NDArray[np.float64], settings: Settings) -> Member:
    scale = StandardScaler().fit(view[0])
    plain = np.clip(scale.transform(view[0]), -_VERY, _VERY)
    components = min(settings.components, *plain.shape)
    reduce = PCA(components, svd_solver="randomized", random_state=0).fit(plain)
    spreads = np.maximum(np.sqrt(reduce.explained_variance_), 1e-9).astype(np.float64)
    stretch = spreads**-settings.even
    rows = np.concatenate([_brought(side, scale, reduce) * stretch for side in view])
    machine = SVC(C=settings.strictness, cache_size=500).fit(
        rows, np.tile(bad, len(view)), sample_weight=np.tile(sure, len(view))
    )
    spread = float(np.std(machine.decision_function(rows[: len(bad)])))
    return Member(scale, reduce, stretch, machine, max(spread, 1e-9))


def _brought(side: Features, scale: StandardScaler, reduce: PCA) -> NDArray[np.float64]:
    found: NDArray[np.float64] = reduce.transform(np.clip(scale.transform(side), -_VERY, _VERY)).astype(np.float64)
    return found

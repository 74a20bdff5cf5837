"""Which labels to look at first.

Owns the order in which a person with little time goes through labels, and what the order was worth afterwards. Never changes a
label: what a model suspects, a person decides.

The idea is confident learning (Northcutt, Jiang, Chuang: arXiv 1911.00068): a model that has not seen an image says how probable
each label is, and where it is surer of the other label than it usually is of images that bear that one, the label is suspect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defectlab import features, metrics
from defectlab.data import DataSet

Numbers = NDArray[np.float64]
Order = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Suspects:
    """How far a model doubts each label.

    Attributes:
        probability: of a defect, from a model that had not seen the image.
        doubt: per image, from 0 (the model agrees) to 1.
        confident: where confident learning counts the label as wrong.
        order: all images, the most doubtful label first.
    """

    probability: Numbers
    doubt: Numbers
    confident: NDArray[np.bool_]
    order: Order


def find(rows: features.Features, data: DataSet, strength: float, *, folds: int = 4) -> Suspects:
    """Doubt about each label of some images, from models that learnt from the others.

    Args:
        rows: features of the images.
        data: the images; images of one group are never on both sides.
        strength: of the regularisation, as `features.fit` chose it.
        folds: parts of the cross-validation.
    """
    return judge(data.labels, features.held_out(rows, data, strength, folds=folds))


def judge(labels: ArrayLike, probability: ArrayLike) -> Suspects:
    """Doubt about each label, from the probability of a defect.

    Args:
        labels: True where the label says defective.
        probability: of a defect, from a model that had not seen the image.
    """
    bad, sure = np.asarray(labels, dtype=bool), np.asarray(probability, dtype=np.float64)
    doubt = np.where(bad, 1.0 - sure, sure)
    # How sure the model usually is of a label, on images that bear it.
    usual_bad = float(sure[bad].mean()) if bad.any() else np.inf
    usual_good = float((1.0 - sure[~bad]).mean()) if not bad.all() else np.inf
    confident = np.where(bad, (1.0 - sure >= usual_good) & (sure < usual_bad), (sure >= usual_bad) & (1.0 - sure < usual_good))
    return Suspects(sure, doubt, confident, np.argsort(-doubt, kind="stable"))


def unsure(probability: ArrayLike, threshold: float = 0.5) -> Order:
    """All images, those first of which the model knows least: the ones nearest to the threshold, in log odds."""
    sure = np.clip(np.asarray(probability, dtype=np.float64), 1e-9, 1.0 - 1e-9)
    border = np.clip(threshold, 1e-9, 1.0 - 1e-9)
    distance = np.abs(np.log(sure / (1.0 - sure)) - np.log(border / (1.0 - border)))
    return np.argsort(distance, kind="stable")


def found_after(order: ArrayLike, wrong: ArrayLike) -> NDArray[np.int64]:
    """How many wrong labels have been seen after 0, 1, 2, … looks in this order."""
    seen = np.asarray(wrong, dtype=bool)[np.asarray(order, dtype=np.intp)]
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(seen, dtype=np.int64)])


@dataclass(frozen=True, slots=True)
class Worth:
    """What a number of looks found.

    Attributes:
        looks: labels looked at.
        found: wrong ones among them.
        wrong: wrong ones in all.
        images: labels in all.
    """

    looks: int
    found: int
    wrong: int
    images: int

    @property
    def precision(self) -> float:
        """Share of the looks that found something."""
        return self.found / self.looks if self.looks else float("nan")

    @property
    def recall(self) -> float:
        """Share of the wrong labels that were found."""
        return self.found / self.wrong if self.wrong else float("nan")

    @property
    def by_chance(self) -> float:
        """The precision of looking anywhere."""
        return self.wrong / self.images if self.images else float("nan")

    def __str__(self) -> str:
        low, high = metrics.interval(self.found, self.looks)
        return (
            f"{self.found} of {self.looks} labels looked at were wrong ({self.precision:.1%}, {metrics.LEVEL:.0%} interval "
            f"{low:.1%} to {high:.1%}; looking anywhere finds {self.by_chance:.1%}); {self.recall:.1%} of all {self.wrong} wrong "
            "labels found"
        )


def worth(order: ArrayLike, wrong: ArrayLike, looks: int) -> Worth:
    """What the first looks in an order found."""
    truth, chosen = np.asarray(wrong, dtype=bool), np.asarray(order, dtype=np.intp)[:looks]
    return Worth(len(chosen), int(truth[chosen].sum()), int(truth.sum()), len(truth))

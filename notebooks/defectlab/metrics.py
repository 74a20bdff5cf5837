"""Numbers about a detector that say what they rest on.

Owns counts, rates and their uncertainty. Never picks a threshold on the images it judges: that is for the caller to keep apart.

An *alarm* is a score at or above the threshold. *Recall* is the share of defects that raise one, the *false-alarm rate* the
share of good parts that do. A scores array has one number per image, a high one meaning a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

LEVEL = 0.95
Figure = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at one threshold.

    Attributes:
        caught: defects with an alarm.
        missed: defects without.
        false_alarms: good parts with an alarm.
        passed: good parts without.
    """

    caught: int
    missed: int
    false_alarms: int
    passed: int

    @property
    def defects(self) -> int:
        """How many defects there are."""
        return self.caught + self.missed

    @property
    def good(self) -> int:
        """How many good parts there are."""
        return self.false_alarms + self.passed

    @property
    def recall(self) -> float:
        """Share of the defects that are caught; nan without defects."""
        return _share(self.caught, self.defects)

    @property
    def false_alarm_rate(self) -> float:
        """Share of the good parts that raise an alarm; nan without good parts."""
        return _share(self.false_alarms, self.good)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a detector does at a threshold that was chosen for a false-alarm rate.

    Attributes:
        asked: the false-alarm rate that was asked for.
        threshold: the threshold that was to give it.
        counts: what it gave.
    """

    asked: float
    threshold: float
    counts: Confusion

    def __str__(self) -> str:
        c = self.counts
        low, high = interval(c.caught, c.defects)
        return (
            f"asked for {self.asked:.1%} false alarms: {c.false_alarms} of {c.good} ({c.false_alarm_rate:.1%}) came; "
            f"{c.caught} of {c.defects} defects caught ({c.recall:.1%}, {LEVEL:.0%} interval {low:.1%} to {high:.1%})"
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and how far the truth may be from it.

    Attributes:
        value: the figure on all images.
        low, high: where it lies in the middle `LEVEL` of the draws.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({LEVEL:.0%} interval {self.low:.1%} to {self.high:.1%})"


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Count at a threshold.

    Args:
        labels: True where there is a defect.
        scores: one per label.
        threshold: an alarm is a score at or above it.
    """
    bad, numbers = _pair(labels, scores)
    alarm = numbers >= threshold
    return Confusion(
        caught=int((alarm & bad).sum()),
        missed=int((~alarm & bad).sum()),
        false_alarms=int((alarm & ~bad).sum()),
        passed=int((~alarm & ~bad).sum()),
    )


def threshold_for(labels: ArrayLike, scores: ArrayLike, rate: float) -> float:
    """The lowest threshold at which at most this share of the good parts raises an alarm.

    With fewer than 1 / rate good parts that means none of them: the rate cannot be told from zero.

    Raises:
        ValueError: there is no good part, or the rate is not between 0 and 1.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"A false-alarm rate lies between 0 and 1; this is {rate}.")
    bad, numbers = _pair(labels, scores)
    good = np.sort(numbers[~bad])[::-1]
    if not len(good):
        raise ValueError("Without good parts there is no false-alarm rate.")
    # The small term keeps 0.29 * 100 from being 28.999….
    allowed = int(rate * len(good) + 1e-9)
    return float(-np.inf) if allowed >= len(good) else float(np.nextafter(good[allowed], np.inf))


def operating_point(labels: ArrayLike, scores: ArrayLike, asked: float, threshold: float | None = None) -> OperatingPoint:
    """Recall at a false-alarm rate.

    Args:
        labels: True where there is a defect.
        scores: one per label.
        asked: the false-alarm rate.
        threshold: chosen for that rate on other images. None chooses it on these, as a published "recall at x % false alarms"
            does; that is a little kinder than what a production line will see.
    """
    if threshold is None:
        threshold = threshold_for(labels, scores, asked)
    return OperatingPoint(asked, threshold, confusion(labels, scores, threshold))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a defect scores higher than a good part, both drawn at random; a tie counts half."""
    bad, numbers = _pair(labels, scores)
    return float(roc_auc_score(bad, numbers))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean precision over the defects, each at the threshold that just catches it; guessing gives the share of defects."""
    bad, numbers = _pair(labels, scores)
    return float(average_precision_score(bad, numbers))


def recall_at(labels: ArrayLike, scores: ArrayLike, rate: float) -> float:
    """Recall at the lowest threshold with at most this false-alarm rate, with hindsight: as papers report it."""
    return operating_point(labels, scores, rate).counts.recall


def false_alarms_for(labels: ArrayLike, scores: ArrayLike, recall: float) -> float:
    """What a recall costs: the lowest false-alarm rate at which at least this share of the defects is caught, with hindsight.

    Raises:
        ValueError: there is no defect or no good part, or the recall is not between 0 and 1.
    """
    if not 0.0 <= recall <= 1.0:
        raise ValueError(f"A recall lies between 0 and 1; this is {recall}.")
    bad, numbers = _pair(labels, scores)
    if not 0 < bad.sum() < len(bad):
        raise ValueError("What a recall costs needs defects and good parts.")
    # The small term keeps 0.29 * 100 from being 29.000…1.
    needed = int(np.ceil(recall * bad.sum() - 1e-9))
    return 0.0 if not needed else confusion(bad, numbers, float(np.sort(numbers[bad])[-needed])).false_alarm_rate


def bootstrap(
    figure: Figure,
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A figure with an interval from drawing the images again, with repetition.

    Args:
        figure: such as `auroc`, or `lambda labels, scores: recall_at(labels, scores, 0.01)`.
        labels: True where there is a defect.
        scores: one per label.
        groups: one name per image: whole groups are drawn then, because images of one group resemble each other and do not
            count as so many independent ones. Mostly that makes the interval wider, and more honest.
        draws: how often to draw.
        seed: start of the random numbers.
    """
    bad, numbers = _pair(labels, scores)
    found = [figure(bad[drawn], numbers[drawn]) for drawn in _draws(bad, groups, draws, seed)]
    return _estimate(figure(bad, numbers), found)


def difference(
    figure: Figure,
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """How much a figure has risen from one detector to another *on the same images*, with an interval.

    Both are judged on each draw, so what makes a draw easy or hard for both cancels out. Where the interval holds 0, these
    images cannot tell which of the two is better.

    Args:
        figure: such as `auroc`.
        labels: True where there is a defect.
        before: scores of one detector.
        after: scores of the other.
        groups: as in `bootstrap`.
        draws: how often to draw.
        seed: start of the random numbers.
    """
    bad, first = _pair(labels, before)
    _, second = _pair(labels, after)
    found = [figure(bad[drawn], second[drawn]) - figure(bad[drawn], first[drawn]) for drawn in _draws(bad, groups, draws, seed)]
    return _estimate(figure(bad, second) - figure(bad, first), found)


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False-alarm rate and recall at every threshold that makes a difference, from the highest down."""
    bad, numbers = _pair(labels, scores)
    order = np.argsort(-numbers, kind="stable")
    last_of_a_tie = np.append(np.diff(numbers[order]) != 0, True)
    caught, alarms = np.cumsum(bad[order])[last_of_a_tie], np.cumsum(~bad[order])[last_of_a_tie]
    zero = np.zeros(1)
    return np.concatenate([zero, alarms / alarms[-1]]), np.concatenate([zero, caught / caught[-1]])


def interval(hits: int, tries: int, level: float = LEVEL) -> tuple[float, float]:
    """What the true rate may be, given these counts of independent tries (Clopper and Pearson's exact interval)."""
    if tries == 0:
        return 0.0, 1.0
    rest = (1.0 - level) / 2.0
    low = 0.0 if hits == 0 else float(stats.beta.ppf(rest, hits, tries - hits + 1))
    high = 1.0 if hits == tries else float(stats.beta.ppf(1.0 - rest, hits + 1, tries - hits))
    return low, high


def recall_by(names: Sequence[str], labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, tuple[int, int]]:
    """Caught and all defects per name, such as the kind of defect; the worst name first."""
    bad, numbers = _pair(labels, scores)
    found: dict[str, tuple[int, int]] = {}
    for name, is_bad, score in zip(names, bad, numbers, strict=True):
        if is_bad:
            caught, total = found.get(name, (0, 0))
            found[name] = (caught + int(score >= threshold), total + 1)
    return dict(sorted(found.items(), key=lambda entry: (entry[1][0] / entry[1][1], entry[0])))


def _draws(bad: NDArray[np.bool_], groups: Sequence[str] | None, draws: int, seed: int) -> Iterator[NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    names = np.arange(len(bad)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    for _ in range(draws):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        # A draw without a defect or without a good part says nothing.
        if 0 < bad[drawn].sum() < len(drawn):
            yield drawn


def _estimate(value: float, found: list[float]) -> Estimate:
    rest = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(found, [rest, 1.0 - rest]) if found else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    # In float64, so that a threshold just above a float32 score does not get rounded back onto it.
    bad, numbers = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if bad.shape != numbers.shape or bad.ndim != 1:
        raise ValueError(f"There are {bad.shape} labels and {numbers.shape} scores; there must be one of each per image.")
    if np.isnan(numbers).any():
        raise ValueError("A score is not a number; did the training diverge?")
    return bad, numbers


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

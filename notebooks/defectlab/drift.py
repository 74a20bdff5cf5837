"""Charts that notice when a machine no longer does as expected, and how soon.

Owns control charts, the comparison of two distributions, and run lengths: how long a chart stays silent. Never knows what was
measured: it sees numbers in units of their own usual spread, one per day or per batch.

A *false alarm* is one while nothing has changed. A *delay* counts from the change to the alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
Chart = Callable[[ArrayLike], "Watched"]
# What practice takes for a distribution that moved; a rule of thumb, and no test.
MOVED = 0.25


@dataclass(frozen=True, slots=True)
class Watched:
    """What a chart shows of a history, or of several at once (one per row).

    Attributes:
        up, down: how far it leans to either side; both are positive.
        limit: an alarm is either of them above it.
    """

    up: Numbers
    down: Numbers
    limit: Numbers

    @property
    def alarms(self) -> NDArray[np.bool_]:
        """True where the chart is above its limit."""
        return (self.up > self.limit) | (self.down > self.limit)

    @property
    def first(self) -> NDArray[np.intp]:
        """The place of the first alarm in each history; its length where there is none."""
        alarms = self.alarms
        return np.where(alarms.any(axis=-1), alarms.argmax(axis=-1), alarms.shape[-1])


def standard(values: ArrayLike, reference: ArrayLike) -> Numbers:
    """In units of the reference's own spread, from its mean.

    Raises:
        ValueError: the reference has no spread.
    """
    known = np.asarray(reference, dtype=np.float64)
    spread = known.std(ddof=1) if len(known) > 1 else 0.0
    if not spread > 0.0:
        raise ValueError("The reference does not vary, so there is no unit to measure a change in.")
    return (np.asarray(values, dtype=np.float64) - known.mean()) / spread


def cusum(values: ArrayLike, *, slack: float = 0.5, limit: float = 5.0) -> Watched:
    """Page's cumulative sums: what exceeds the slack adds up, to either side; a lasting small change does so soon.

    Args:
        values: in standard units, one per time; the last axis is time.
        slack: half the change that one wants to notice.
        limit: where the alarm is; higher means later and fewer.
    """
    numbers = np.asarray(values, dtype=np.float64)
    up, down = np.zeros_like(numbers), np.zeros_like(numbers)
    high = low = np.zeros(numbers.shape[:-1])
    for time in range(numbers.shape[-1]):
        high = np.maximum(0.0, high + numbers[..., time] - slack)
        low = np.maximum(0.0, low - numbers[..., time] - slack)
        up[..., time], down[..., time] = high, low
    return Watched(up, down, np.full(numbers.shape[-1], limit))


def ewma(values: ArrayLike, *, weight: float = 0.2, limit: float = 3.0) -> Watched:
    """The exponentially weighted mean against its own spread.

    Args:
        values: in standard units, one per time; the last axis is time.
        weight: of the newest value; 1 looks at single values only, as Shewhart's chart.
        limit: in standard deviations that the mean would have if values were independent.

    Raises:
        ValueError: the weight is not between 0 and 1.
    """
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"The weight of the newest value lies between 0 and 1; this is {weight}.")
    numbers = np.asarray(values, dtype=np.float64)
    means = np.zeros_like(numbers)
    mean = np.zeros(numbers.shape[:-1])
    for time in range(numbers.shape[-1]):
        mean = (1.0 - weight) * mean + weight * numbers[..., time]
        means[..., time] = mean
    ages = 1.0 - (1.0 - weight) ** (2 * np.arange(1, numbers.shape[-1] + 1))
    return Watched(np.maximum(means, 0.0), np.maximum(-means, 0.0), limit * np.sqrt(weight / (2.0 - weight) * ages))


def population_stability(reference: ArrayLike, recent: ArrayLike, *, bins: int = 10) -> float:
    """The population stability index: how differently two groups of numbers fill bins of equal share of the reference.

    0 means alike; above `MOVED` practice speaks of a distribution that moved. A small `recent` alone makes it large: with n
    numbers it is about `(bins - 1) / n` though nothing has changed.
    """
    known, new = np.asarray(reference, dtype=np.float64), np.asarray(recent, dtype=np.float64)
    edges = np.quantile(known, np.linspace(0.0, 1.0, bins + 1)[1:-1])
    shares = []
    for numbers in (known, new):
        counts = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=bins)
        # Half a number in an empty bin, because the logarithm of nothing is no number.
        shares.append((counts + 0.5) / (len(numbers) + 0.5 * bins))
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def histories(values: ArrayLike, length: int, draws: int, *, block: int = 7, seed: int = 0) -> Numbers:
    """Made-up histories from real ones: blocks that follow each other in `values`, drawn with repetition (one history per row).

    A block keeps how neighbours resemble each other; charts that assume independent days promise too much where they do.

    Raises:
        ValueError: a block is longer than the values.
    """
    known = np.asarray(values, dtype=np.float64)
    if not 0 < block <= len(known):
        raise ValueError(f"A block of {block} does not fit into {len(known)} values.")
    rng = np.random.default_rng(seed)
    starts = rng.integers(len(known) - block + 1, size=(draws, -(-length // block)))
    return known[starts[..., None] + np.arange(block)].reshape(draws, -1)[:, :length]


def without_trend(values: ArrayLike, times: ArrayLike) -> tuple[Numbers, float]:
    """The values less the straight line through them, and its slope per unit of time."""
    numbers, at = np.asarray(values, dtype=np.float64), np.asarray(times, dtype=np.float64)
    slope, level = np.polyfit(at, numbers, 1)
    return numbers - slope * at - level, float(slope)


def limit_for(chart: Callable[[float], Watched], silent: float, *, low: float = 0.5, high: float = 40.0) -> float:
    """The lowest limit at which this share of the histories stays without an alarm, by halving.

    Args:
        chart: a limit to what the chart shows, such as `lambda limit: cusum(quiet, limit=limit)`.
        silent: share of the histories, such as 0.95.
        low, high: the limit lies between.
    """
    for _ in range(30):
        middle = (low + high) / 2.0
        watched = chart(middle)
        if float(np.mean(watched.first == watched.up.shape[-1])) >= silent:
            high = middle
        else:
            low = middle
    return high


def delays(watched: Watched, start: int) -> Numbers:
    """Times from a change at `start` to the first alarm from then on; `inf` where none came.

    Histories with an alarm before the change are left out: that one was false, and somebody would have looked.
    """
    alarms = watched.alarms
    fair = ~alarms[..., :start].any(axis=-1)
    after = alarms[fair][..., start:]
    return np.where(after.any(axis=-1), after.argmax(axis=-1).astype(np.float64), np.inf)

"""Samples, their statistics and the order they are taken in; all pure.

Owns every number's way from a sample to a cell of the table. Never measures, prints or reads anything.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

FIRST = "first"
"""A person's first start: nothing of hers is there."""
AGAIN = "again"
"""The same person's next start."""


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of one round, all its users together; None where it could not be read.

    Attributes:
        containers: what the engine counts for the containers themselves.
        hub: hub, proxy and the hub's services.
        engine: dockerd, containerd, and the shims of these containers with the runc they ran.
        machine: everything that ran on the machine meanwhile, this program included.
    """

    containers: float
    hub: float
    engine: float | None
    machine: float

    @property
    def counted(self) -> float:
        """Containers, hub and engine, without what else ran on the machine."""
        return self.containers + self.hub + (self.engine or 0.0)

    @property
    def elsewhere(self) -> float:
        """Share of the machine's CPU seconds that is not counted: this program, the kernel's own threads, other people."""
        return max(0.0, 1 - self.counted / self.machine) if self.machine else 0.0


@dataclass(frozen=True)
class Sample:
    """One round of one subject: some users started at once, then stopped at once.

    Attributes:
        serving: seconds from each user's POST to the line in her server's log that says that it runs.
        ready: seconds from each user's POST to the hub calling her server ready.
        stop: seconds from the first DELETE until the last server was stopped.
        load: load average of the last minute before the round.
    """

    subject: str
    users: int
    occasion: str
    number: int
    serving: tuple[float, ...]
    ready: tuple[float, ...]
    stop: float
    cpu: Cpu
    load: float


@dataclass(frozen=True)
class Summary:
    """What the table says of one subject in one situation; seconds."""

    subject: str
    users: int
    occasion: str
    rounds: int
    serving_median: float
    ready_median: float
    ready_p95: float
    ready_all: float
    stop_all: float
    cpu_per_start: float
    cpu_containers: float
    cpu_hub: float
    cpu_engine: float | None
    cpu_machine: float


@dataclass(frozen=True)
class Ratio:
    """A subject's figure divided by the peer's, with the interval that nine of ten resamplings of the rounds fall into."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"

    @property
    def verdict(self) -> str:
        """What can be said: `slower` and `faster` only where the whole interval is on one side of 1."""
        if self.low > 1.0:
            return "slower"
        return "faster" if self.high < 1.0 else "no difference shown"


def percentile(values: Iterable[float], percent: float) -> float:
    """A percentile with linear interpolation between the neighbouring values.

    Raises:
        ValueError: there are no values, or `percent` is not between 0 and 100.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= percent <= 100:
        raise ValueError(f"no {percent:g}th percentile of {len(ordered)} values")
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def order(subjects: Sequence[str], rounds: int, seed: int) -> list[list[str]]:
    """Who is measured when: every subject once per round, and never one twice in a row.

    A drift of the machine so meets all subjects alike.
    """
    chance = random.Random(seed)
    plan: list[list[str]] = []
    for _ in range(rounds):
        turn = list(subjects)
        chance.shuffle(turn)
        while len(turn) > 1 and plan and turn[0] == plan[-1][-1]:
            chance.shuffle(turn)
        plan.append(turn)
    return plan


def serving_median(samples: Sequence[Sample]) -> float:
    """Median over all users of all rounds."""
    return statistics.median(seconds for sample in samples for seconds in sample.serving)


def ready_median(samples: Sequence[Sample]) -> float:
    """Median over all users of all rounds."""
    return statistics.median(seconds for sample in samples for seconds in sample.ready)


def ready_p95(samples: Sequence[Sample]) -> float:
    """95th percentile over all users of all rounds."""
    return percentile((seconds for sample in samples for seconds in sample.ready), 95)


def ready_all(samples: Sequence[Sample]) -> float:
    """Median over the rounds of the slowest user's time."""
    return statistics.median(max(sample.ready) for sample in samples)


def stop_all(samples: Sequence[Sample]) -> float:
    """Median over the rounds."""
    return statistics.median(sample.stop for sample in samples)


def cpu_per_start(samples: Sequence[Sample]) -> float:
    """Median over the rounds of what is counted, per user."""
    return statistics.median(sample.cpu.counted / sample.users for sample in samples)


FIGURES: dict[str, Callable[[Sequence[Sample]], float]] = {
    "serving_median": serving_median,
    "ready_median": ready_median,
    "ready_p95": ready_p95,
    "ready_all": ready_all,
    "stop_all": stop_all,
    "cpu_per_start": cpu_per_start,
}


def select(samples: Iterable[Sample], subject: str, users: int, occasion: str) -> list[Sample]:
    """The samples of one subject in one situation."""
    return [s for s in samples if (s.subject, s.users, s.occasion) == (subject, users, occasion)]


def situations(samples: Iterable[Sample]) -> list[tuple[int, str]]:
    """The (users, occasion) that occur, fewest users first, first starts first."""
    return sorted({(s.users, s.occasion) for s in samples}, key=lambda at: (at[0], at[1] != FIRST))


def summarise(samples: Sequence[Sample]) -> Summary:
    """The summary of samples of one subject in one situation."""
    first = samples[0]

    def per_start(part: str) -> float | None:
        values = [getattr(sample.cpu, part) for sample in samples]
        if any(value is None for value in values):
            return None
        return float(statistics.median(value / first.users for value in values))

    return Summary(
        subject=first.subject,
        users=first.users,
        occasion=first.occasion,
        rounds=len(samples),
        **{name: figure(samples) for name, figure in FIGURES.items()},
        **{f"cpu_{field.name}": per_start(field.name) for field in fields(Cpu)},  # type: ignore[arg-type]
    )


def ratio(
    figure: Callable[[Sequence[Sample]], float],
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    seed: int,
    resamplings: int = 2000,
) -> Ratio:
    """Our figure divided by theirs, with a bootstrap interval (90 %) over whole rounds.

    Users of one round wait for each other, so rounds are resampled and never single users.
    """
    chance = random.Random(seed)
    drawn = [
        figure(chance.choices(ours, k=len(ours))) / figure(chance.choices(theirs, k=len(theirs))) for _ in range(resamplings)
    ]
    return Ratio(figure(ours) / figure(theirs), percentile(drawn, 5), percentile(drawn, 95))

"""The page of usage as plain values: rows in words, and the geometry of its pictures.

Owns scales, ticks and bars. Never asks the ledger and writes no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spawner import sheets, usage
from spawner.usage import Report, Row, Slice, Span

PERIODS = (("1d", "the last day"), ("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"))
BY_WORDS = {"user": "person", "group": "group", "profile": "profile", "gpu": "GPU"}
MOST_BARS = 15


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its part in use, and within that the idle part; lengths in the picture's units.

    Attributes:
        at: where it begins, along the axis of the bars.
        size: its width across that axis.
        used, idle: lengths.
        label: below or beside it; may be empty.
        words: what it says, for who cannot see it.
    """

    at: float
    size: float
    used: float
    idle: float
    label: str
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture.

    Attributes:
        width, height: of the bars' field.
        ticks: pairs of place and label on the scale.
    """

    width: float
    height: float
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class UsagePage:
    """Everything that the page shows.

    Attributes:
        own: the viewer sees only themselves.
        since: the period as it was asked for.
    """

    report: Report
    over_time: Chart
    by_key: Chart
    own: bool
    since: str
    until: str
    person: str

    @property
    def by(self) -> str:
        """What the sums are for, in a word."""
        return BY_WORDS[self.report.by]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        return sheets.notes(self.report)

    @property
    def rows(self) -> tuple[tuple[str, Row], ...]:
        """Each row with its name in words."""
        return tuple((sheets.key_words(self.report.by, row.key), row) for row in self.report.rows)

    @property
    def reasons(self) -> tuple[tuple[str, int], ...]:
        """Refusals by reason, the most frequent first."""
        return tuple(sorted(self.report.total.refused.items(), key=lambda item: (-item[1], item[0])))


def page(report: Report, cuts: Sequence[Slice], *, own: bool, since: str, until: str, person: str) -> UsagePage:
    """The page of a report."""
    return UsagePage(report, over_time(cuts, report.span), by_key(report), own, since, until, person)


def over_time(cuts: Sequence[Slice], span: Span, width: float = 720, height: float = 180) -> Chart:
    """GPU-hours over the period, upright bars."""
    top = nice(max((cut.gpu_seconds for cut in cuts), default=0.0) / 3600)
    step = width / max(1, len(cuts))
    short = (span.until - span.since).total_seconds() <= 1.5 * 86400
    every = max(1, math.ceil(len(cuts) / 8))
    bars = []
    for number, cut in enumerate(cuts):
        label = f"{cut.since:%H:%M}" if short else f"{cut.since:%d %b}"
        words = (
            f"{cut.since:%Y-%m-%d %H:%M} UTC: {sheets.hours(cut.gpu_seconds)} GPU-hours, {sheets.hours(cut.idle_seconds)} idle"
        )
        used, idle = (seconds / 3600 / top * height for seconds in (cut.gpu_seconds, cut.idle_seconds))
        bars.append(Bar(number * step, step * 0.8, used, idle, label if number % every == 0 else "", words))
    return Chart(width, height, tuple(bars), tuple((part * height, f"{part * top:g}") for part in (0, 0.5, 1)))


def by_key(report: Report, width: float = 560, step: float = 26) -> Chart:
    """GPU-hours by key, lying bars; the smallest are left to the table."""
    rows = [row for row in report.rows if row.gpu_seconds > 0][:MOST_BARS]
    top = nice(max((row.gpu_seconds for row in rows), default=0.0) / 3600)
    bars = []
    for number, row in enumerate(rows):
        name = sheets.key_words(report.by, row.key)
        words = f"{name}: {sheets.hours(row.gpu_seconds)} GPU-hours, {sheets.hours(row.idle_seconds)} idle"
        used, idle = (seconds / 3600 / top * width for seconds in (row.gpu_seconds, row.idle_seconds))
        bars.append(Bar(number * step, step * 0.7, used, idle, name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}", words))
    return Chart(width, max(1, len(bars)) * step, tuple(bars), tuple((part * width, f"{part * top:g}") for part in (0, 0.5, 1)))


def nice(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below the value; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def waits(values: Sequence[float]) -> str:
    """Waiting times in words."""
    if not values:
        return "–"
    return f"{len(values)}, median {sheets.length(usage.quantile(values, 0.5))}, longest {sheets.length(values[-1])}"

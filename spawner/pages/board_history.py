"""The last day of the lab as a picture: where its lines run, and the same as a table.

Owns the geometry and the rounding. Pure functions of tallies; never reads a clock and draws no SVG itself (the template does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner.pages.viewer import Json
from spawner.records import Tally

WIDTH, HEIGHT = 720, 200
SPAN = timedelta(hours=24)
HOUR = timedelta(hours=1)
# More points than this are not seen on a screen.
MOST_POINTS = 360
# A gap that is longer means that nobody counted; the line is then broken.
LONGEST_GAP = timedelta(minutes=15)
# Name, words, and the dashes that tell the lines apart without colour.
LINES = (
    ("held", "held", ""),
    ("idle", "held but idle", "6 4"),
    ("waiting", "requests in line", "2 3"),
    ("out", "out of use", "10 3 2 3"),
)


@dataclass(frozen=True, slots=True)
class LineShape:
    """One line of the picture: `paths` is one SVG path per unbroken piece."""

    name: str
    words: str
    dashes: str
    path: str


@dataclass(frozen=True, slots=True)
class HourRow:
    """One hour of the table: means, rounded to one decimal; `busy` is mean utilisation in percent."""

    since: datetime
    total: float
    held: float
    idle: float
    waiting: float
    out: float
    busy: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """The last day.

    Attributes:
        top: the number at the upper edge.
        ticks: x and moment of the marks below.
        summary: one sentence, which stands for the picture where it cannot be seen.
    """

    lines: tuple[LineShape, ...]
    top: int
    ticks: tuple[tuple[float, datetime], ...]
    hours: tuple[HourRow, ...]
    summary: str
    width: int = WIDTH
    height: int = HEIGHT


def picture(tallies: Sequence[Tally], now: datetime) -> Picture:
    """The picture of the day that ends now."""
    begin = now - SPAN
    points = [tally for tally in tallies if begin <= tally.at <= now]
    top = max((max(t.total, t.held, t.waiting, 1) for t in points), default=1)
    thin = points[:: max(1, len(points) // MOST_POINTS)]
    lines = tuple(LineShape(name, words, dashes, _path(thin, name, begin, top)) for name, words, dashes in LINES)
    first = (begin + HOUR).replace(minute=0, second=0, microsecond=0)
    ticks = tuple((_x(moment, begin), moment) for moment in (first + HOUR * hours for hours in range(0, 24, 6)))
    hours = tuple(_hours(points))
    return Picture(lines, top, ticks, hours, _summary(points))


def as_json(tallies: Sequence[Tally]) -> list[Json]:
    """The points, oldest first."""
    return [
        {
            "at": tally.at.isoformat(timespec="seconds"),
            "total": tally.total,
            "held": tally.held,
            "idle": tally.idle,
            "out": tally.out,
            "waiting": tally.waiting,
            "busy": tally.busy,
        }
        for tally in tallies
    ]


def _x(moment: datetime, begin: datetime) -> float:
    return round((moment - begin) / SPAN * WIDTH, 1)


def _path(points: Sequence[Tally], name: str, begin: datetime, top: int) -> str:
    parts: list[str] = []
    last: Tally | None = None
    for point in points:
        x, y = _x(point.at, begin), round(HEIGHT - getattr(point, name) / top * HEIGHT, 1)
        # Steps: between two counts nothing is known of a slope.
        parts.append(f"M{x:g} {y:g}" if last is None or point.at - last.at > LONGEST_GAP else f"H{x:g}V{y:g}")
        last = point
    return "".join(parts)


def _hours(points: Sequence[Tally]) -> list[HourRow]:
    hours: dict[datetime, list[Tally]] = {}
    for point in points:
        hours.setdefault(point.at.replace(minute=0, second=0, microsecond=0), []).append(point)
    rows = []
    for since, found in sorted(hours.items()):
        busy = [point.busy for point in found if point.busy is not None]
        means = {name: _mean([getattr(p, name) for p in found]) for name in ("total", "held", "idle", "waiting", "out")}
        rows.append(HourRow(since, **means, busy=_mean(busy) if busy else None))
    return rows


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 1)


def _summary(points: Sequence[Tally]) -> str:
    if not points:
        return "Nothing was counted in the last 24 hours."
    held, total = sum(p.held for p in points), sum(p.total for p in points)
    share = f"{round(100 * held / total)} % of all GPU time was held" if total else "There was no GPU"
    waiting = max(p.waiting for p in points)
    return f"In the last 24 hours {share}; at most {waiting} {'request was' if waiting == 1 else 'requests were'} in line."

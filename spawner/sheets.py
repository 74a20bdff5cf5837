"""Usage as text: a table for a terminal, CSV for a spreadsheet, JSON for a script.

Owns columns, units and rounding, so that command line, page and REST cannot disagree. Pure; never reads a ledger.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence

from spawner import usage
from spawner.usage import Report, Row

NO_KEY = {"group": "(no group)", "gpu": "(no GPU)", "user": "(nobody)", "profile": "(none)"}
HEAD = {"user": "PERSON", "group": "GROUP", "profile": "PROFILE", "gpu": "GPU"}
COLUMNS = (
    "gpu_hours", "idle_gpu_hours", "labs", "waited", "waited_median_s", "waited_p95_s", "waited_max_s",
    "still_waiting", "still_waiting_median_s", "still_waiting_p95_s", "still_waiting_max_s", "refused",
)  # fmt: skip


def key_words(by: str, key: str) -> str:
    """A row's name for a person."""
    return key or NO_KEY[by]


def hours(seconds: float) -> str:
    """GPU-seconds as hours, for a person."""
    return f"{seconds / 3600:,.1f}"


def length(seconds: float | None) -> str:
    """A length of time for a person: two units at most; a dash where there is none."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    for unit, word, below, less in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit}{word} {rest}{less}" if rest else f"{whole // unit}{word}"
    return f"{whole}s"


def waits(values: Sequence[float]) -> tuple[str, str, str]:
    """Median, 95th percentile and longest of waiting times, for a person."""
    median, most, longest = (length(usage.quantile(values, part)) for part in (0.5, 0.95, 1.0))
    return median, most, longest


def notes(report: Report) -> tuple[str, ...]:
    """What a reader must know about these rows."""
    found = []
    if report.by == "group":
        found.append("A person in two groups counts for each of them, so groups may add up to more than the total.")
    if report.by == "gpu":
        found.append("Labs and waits with several GPUs count for each of them; refused and waiting requests have no GPU.")
    return tuple(found)


def text(report: Report) -> str:
    """For a terminal."""
    span = report.span
    lines: list[tuple[str, ...]] = [
        (HEAD[report.by], "GPU-HOURS", "IDLE", "IDLE %", "LABS", "WAITED", "MEDIAN", "P95", "MAX", "WAITING", "REFUSED")
    ]
    for row in report.rows:
        lines.append((key_words(report.by, row.key), *_cells(row)))
    lines.append(("total", *_cells(report.total)))
    head = f"From {span.since:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    return "\n".join([head, "", table(lines, right=range(1, 11)), *(f"\n{note}" for note in notes(report))])


def _cells(row: Row) -> tuple[str, ...]:
    part = f"{100 * row.idle_part:.0f}" if row.gpu_seconds else "-"
    still = f"{len(row.waiting)} ({length(row.waiting[-1])})" if row.waiting else "0"
    used, idle = hours(row.gpu_seconds), hours(row.idle_seconds)
    return (used, idle, part, str(row.labs), str(len(row.waits)), *waits(row.waits), still, str(row.refusals))


def table(lines: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Lines of cells as columns; those numbered in `right` are aligned to the right."""
    numbers = set(right)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in numbers else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(report: Report) -> dict[str, object]:
    """For a script."""
    span = report.span
    return {
        "by": report.by,
        "since": span.since.isoformat(timespec="seconds"),
        "until": span.end.isoformat(timespec="seconds"),
        "rows": [row.as_json() for row in report.rows],
        "total": report.total.as_json(),
        "notes": list(notes(report)),
    }


def as_csv(report: Report) -> str:
    """For a spreadsheet: one line per row, without the total."""
    out = _Out()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([report.by, *COLUMNS])
    for row in report.rows:
        writer.writerow([harmless(row.key), *(_plain(value) for value in _values(row))])
    return "".join(out)


class _Out(list[str]):
    def write(self, line: str) -> None:
        self.append(line)


def _values(row: Row) -> tuple[float | None, ...]:
    def spread(values: Sequence[float]) -> tuple[float | None, ...]:
        return (len(values), *(usage.quantile(values, part) for part in (0.5, 0.95, 1.0)))

    used = (row.gpu_seconds / 3600, row.idle_seconds / 3600, row.labs)
    return (*used, *spread(row.waits), *spread(row.waiting), row.refusals)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4):g}" if value < 100_000 else f"{value:.1f}"


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell

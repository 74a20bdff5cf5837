"""The result as Markdown and as JSON; pure.

Owns the words and columns of the tables. Never measures, and never writes a file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.samples import AGAIN, FIGURES, FIRST, Ratio, Sample, Summary, ratio, select, situations, summarise

LAB, PLAIN = "lab", "plain"
OCCASIONS = {FIRST: "first start", AGAIN: "next start"}
COLUMNS = (
    "users", "start", "subject", "rounds", "serving median s", "ready median s", "ready p95 s", "all ready s", "all stopped s",
    "CPU s per start", "containers", "hub", "engine", "whole machine",
)  # fmt: skip
RATIOS = {
    "serving_median": "serving median",
    "ready_median": "ready median",
    "ready_p95": "ready p95",
    "ready_all": "all ready",
    "stop_all": "all stopped",
    "cpu_per_start": "CPU per start",
}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios(samples: Sequence[Sample], seed: int) -> dict[tuple[int, str], dict[str, Ratio]]:
    """Lab divided by plain, per situation in which both were measured."""
    found: dict[tuple[int, str], dict[str, Ratio]] = {}
    for users, occasion in situations(samples):
        ours, theirs = (select(samples, subject, users, occasion) for subject in (LAB, PLAIN))
        if ours and theirs:
            found[users, occasion] = {name: ratio(figure, ours, theirs, seed) for name, figure in FIGURES.items()}
    return found


def summaries(samples: Sequence[Sample], subjects: Sequence[str]) -> list[Summary]:
    """One summary per situation and subject that occurs."""
    chosen = [select(samples, subject, *situation) for situation in situations(samples) for subject in subjects]
    return [summarise(group) for group in chosen if group]


def row(summary: Summary) -> list[str]:
    """A summary as cells of the main table."""
    seconds = (summary.serving_median, summary.ready_median, summary.ready_p95, summary.ready_all, summary.stop_all)
    cpu = (summary.cpu_per_start, summary.cpu_containers, summary.cpu_hub, summary.cpu_engine, summary.cpu_machine)
    return [
        str(summary.users),
        OCCASIONS[summary.occasion],
        summary.subject,
        str(summary.rounds),
        *(f"{value:.2f}" for value in seconds),
        *("n/a" if value is None else f"{value:.2f}" for value in cpu),
    ]


def ratio_rows(found: Mapping[tuple[int, str], Mapping[str, Ratio]]) -> list[list[str]]:
    """Lab divided by plain as cells; a figure whose whole interval lies above 1 is set in bold."""
    rows = []
    for (users, occasion), figures in found.items():
        cells = [f"**{value}**" if value.verdict == "slower" else str(value) for value in figures.values()]
        rows.append([f"{users}, {OCCASIONS[occasion]}", *cells])
    return rows


def as_json(samples: Sequence[Sample], subjects: Sequence[str], facts: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that was measured and computed, ready for `json.dumps`."""
    return {
        "facts": dict(facts),
        "seed": seed,
        "summaries": [asdict(summary) for summary in summaries(samples, subjects)],
        "ratios_lab_to_plain": [
            {"users": users, "occasion": occasion, **{name: asdict(value) for name, value in figures.items()}}
            for (users, occasion), figures in ratios(samples, seed).items()
        ],
        "samples": [asdict(sample) for sample in samples],
    }


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """The facts as a Markdown list; a group of facts is one line."""
    lines = []
    for name, value in facts.items():
        words = ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, Mapping) else str(value)
        lines.append(f"- {name}: {words}")
    return lines


def disturbance_lines(samples: Sequence[Sample]) -> list[str]:
    """How quiet the machine was, as lines of a Markdown list."""
    loads = [sample.load for sample in samples]
    shares = [sample.cpu.elsewhere for sample in samples]
    return [
        f"- load before a round: {loads[0]:.2f} before the first, {max(loads):.2f} at most (each round is load for the next)",
        f"- CPU spent elsewhere during the starts: {statistics.median(shares):.0%} in the median, {max(shares):.0%} at most",
    ]


def as_markdown(samples: Sequence[Sample], subjects: Sequence[str], facts: Mapping[str, Any], seed: int) -> str:
    """The result for people."""
    found = ratios(samples, seed)
    parts = [
        "# Starting and stopping labs, measured",
        "\n".join([*fact_lines(facts), f"- seed: {seed}", *disturbance_lines(samples)]),
        "Seconds. `../README.md` says what each column counts.",
        markdown_table(COLUMNS, [row(summary) for summary in summaries(samples, subjects)]),
    ]
    if found:
        parts += [
            "Lab divided by plain, with the interval that 90 % of the resamplings of the rounds fall into. Below 1 the lab is "
            "faster; **bold** where the whole interval is above 1.",
            markdown_table(["users, start", *RATIOS.values()], ratio_rows(found)),
        ]
    return "\n\n".join(parts) + "\n"

"""Labelled plots of signals and of days: waves, spectra, control charts.

Owns how measurements of machines look; in the style of `plots`. Never computes a figure of merit and never writes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.dates import ConciseDateFormatter
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import ArrayLike

from defectlab.drift import MOVED, Watched
from defectlab.plots import DEFECT, GOOD, INK, QUIET, STYLE, Plot
from defectlab.signals import Spectrum

# Told apart by shape as well as by colour.
MARKS = (("o", GOOD), ("s", DEFECT), ("^", INK))
_P = ParamSpec("_P")


def _styled(draw: Callable[_P, Plot]) -> Callable[_P, Plot]:
    """Draw in the library's style, whatever the notebook's is."""
    styled: Callable[_P, Plot] = matplotlib.rc_context(STYLE)(draw)
    return styled


@_styled
def waves(found: Mapping[str, tuple[ArrayLike, float]], *, title: str, unit: str = "g") -> Plot:
    """Signals above each other on one scale: name to samples and samples per second."""
    figure = Plot(figsize=(6.8, 1.15 * len(found) + 0.9), layout="constrained")
    axes = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, (samples, rate)) in zip(axes, found.items(), strict=True):
        values = np.asarray(samples)
        axis.plot(np.arange(len(values)) * 1000.0 / rate, values, color=GOOD, linewidth=0.7)
        axis.set_ylabel(f"{name}\n({unit})", fontsize=9)
    axes[0].set_title(title)
    axes[-1].set_xlabel("time (ms)")
    return figure


@_styled
def spectra(found: Mapping[str, Spectrum], marks: Mapping[str, float], *, title: str, multiples: int = 3) -> Plot:
    """Spectra above each other, each on its own scale; dotted lines mark frequencies and their multiples."""
    figure = Plot(figsize=(6.8, 1.25 * len(found) + 1.1), layout="constrained")
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, one) in zip(axes, found.items(), strict=True):
        axis.plot(one.frequencies, one.amplitudes, color=GOOD, linewidth=0.8)
        for (label, frequency), (_, colour) in zip(marks.items(), MARKS[1:], strict=False):
            for multiple in range(1, multiples + 1):
                axis.axvline(multiple * frequency, color=colour, linestyle=":" if colour == DEFECT else "--", linewidth=1.0,
                             label=f"{label} and multiples" if multiple == 1 else None)  # fmt: skip
        axis.set_ylabel(f"{name}\n(g)", fontsize=9)
        axis.set_xlim(one.frequencies[0], one.frequencies[-1])
        axis.set_ylim(bottom=0.0)
    axes[0].set_title(title)
    axes[-1].set_xlabel("frequency (Hz)")
    if marks:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(marks))
    return figure


@_styled
def plane(
    found: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    lines: tuple[float, float] | None = None,
) -> Plot:
    """Points of several kinds on two logarithmic axes; dotted lines mark a threshold on each."""
    figure = Plot(figsize=(6.0, 4.2), layout="constrained")
    axis = figure.subplots()
    for (name, (x, y)), (marker, colour) in zip(found.items(), MARKS, strict=False):
        label = f"{name} ({len(np.asarray(x))})"
        axis.plot(x, y, linestyle="none", marker=marker, markersize=4.5, color=colour, alpha=0.7, label=label)
    if lines is not None:
        axis.axvline(lines[0], color=QUIET, linestyle=":", label="threshold")
        axis.axhline(lines[1], color=QUIET, linestyle=":")
    axis.set(xscale="log", yscale="log")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.legend()
    return figure


@_styled
def control(
    residuals: pd.Series, watched: Mapping[str, tuple[pd.DatetimeIndex, Watched]], *, learnt_until: pd.Timestamp, title: str
) -> Plot:
    """Residuals by day, and below them what charts make of them: how far each leans, its limit, and its first alarm."""
    figure = Plot(figsize=(6.8, 2.4 + 1.6 * len(watched)), layout="constrained")
    axes = figure.subplots(1 + len(watched), 1, sharex=True, squeeze=False)[:, 0]
    axes[0].plot(residuals.index, residuals.to_numpy(), "o", color=GOOD, markersize=3)
    axes[0].axhline(0.0, color=INK, linewidth=0.8)
    axes[0].axvspan(residuals.index[0], learnt_until, color=QUIET, alpha=0.2, label="learnt from")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].set_ylabel("measured less\nexpected", fontsize=9)
    axes[0].legend(loc="upper right")
    for axis, (name, (times, one)) in zip(axes[1:], watched.items(), strict=True):
        axis.plot(times, one.up, color=INK, linestyle="--", label="too much")
        axis.plot(times, one.down, color=DEFECT, label="too little")
        axis.plot(times, one.limit, color=QUIET, linestyle=":", label="limit")
        if one.alarms.any():
            axis.axvline(times[int(one.first)], color=DEFECT, linewidth=0.9, label="first alarm")
        axis.set_ylabel(name, fontsize=9)
        axis.legend(loc="upper left", fontsize=8, ncols=2)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(axes[-1].xaxis.get_major_locator()))
    axes[-1].set_xlabel("day")
    axes[0].set_title(title)
    return figure


@_styled
def stability(found: Mapping[str, Sequence[float]], columns: Sequence[str], *, title: str) -> Plot:
    """Population stability, one row per quantity and one column per time; bold where practice says that it moved."""
    figure = Plot(figsize=(1.0 * len(columns) + 2.6, 0.45 * len(found) + 1.3), layout="constrained")
    axis = figure.subplots()
    table = np.array(list(found.values()))
    axis.imshow(np.minimum(table, 2.0), cmap="Oranges", vmin=0.0, vmax=2.0, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        weight = "bold" if value > MOVED else "normal"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, fontweight=weight,
                  color="white" if value > 1.4 else INK)  # fmt: skip
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(found)), list(found))
    axis.set(title=title, xlabel=f"month (bold: above {MOVED:g})")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return figure

"""Labelled plots.

Owns how things look. Never computes a figure of merit (`metrics` does) and never writes a file. Each function returns a `Plot`,
which a notebook shows when it is the last word of a cell; `plot.savefig("name.png")` keeps it.

Colours mean the same everywhere, and are told apart by colour-blind readers too: blue is good, orange is a defect.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from defectlab import metrics
from defectlab.data import DataSet
from defectlab.metrics import Confusion, OperatingPoint
from defectlab.train import History

GOOD, DEFECT, QUIET, INK = "#0072b2", "#d55e00", "#9aa5b1", "#243b53"
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_DPI = 144
_P = ParamSpec("_P")


class Plot(Figure):
    """A figure that shows itself in a notebook, sharp also on a fine screen, without pyplot's global state."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.1)
        # PNG keeps its width at byte 16; a browser shows two of our pixels as one of its own.
        width = int.from_bytes(content.getvalue()[16:20], "big")
        return content.getvalue(), {"width": width * 2 // 3}


def _styled(draw: Callable[_P, Plot]) -> Callable[_P, Plot]:
    """Draw in our style, whatever the notebook's is."""
    styled: Callable[_P, Plot] = matplotlib.rc_context(STYLE)(draw)
    return styled


@_styled
def gallery(data: DataSet, *, seed: int = 0) -> Plot:
    """One image per source (rows) and kind (columns), with the outline of its defect where the mask is known."""
    rng = np.random.default_rng(seed)
    rows = sorted({record.source for record in data.records})
    columns = sorted({(record.defective, record.kind) for record in data.records})
    figure = Plot(figsize=(1.28 * len(columns), 1.36 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, source in enumerate(rows):
        for j, (defective, kind) in enumerate(columns):
            found = [n for n, record in enumerate(data.records) if (record.source, record.kind) == (source, kind)]
            if found:
                chosen = int(rng.choice(found))
                _picture(axes[i, j], data.images[chosen], None if data.masks is None else data.masks[chosen])
            else:
                axes[i, j].axis("off")
            if i == 0:
                axes[i, j].set_title(kind, color=DEFECT if defective else GOOD, fontsize=10, loc="center")
        axes[i, 0].set_ylabel(source)
    return figure


@_styled
def learning_curve(history: History) -> Plot:
    """Loss by epoch on training and validation images; the epoch whose weights were kept is marked."""
    figure, axis = _one(6.4, 3.4)
    epochs = np.arange(1, len(history.train_loss) + 1)
    axis.plot(epochs, history.train_loss, color=QUIET, marker="o", markersize=3, label="training images (varied)")
    axis.plot(epochs, history.validation_loss, color=GOOD, marker="o", markersize=3, label="validation images")
    best = history.best
    axis.plot(epochs[best], history.validation_loss[best], "o", color=DEFECT, markersize=9, fillstyle="none", markeredgewidth=2,
              label=f"kept: epoch {best + 1}")  # fmt: skip
    axis.set(title="Learning curve", xlabel="epoch (every training image once)", ylabel="loss (log scale, lower is better)")
    axis.set_xlim(0.5, epochs[-1] + 0.5)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


@_styled
def confusion_matrix(counts: Confusion, threshold: float) -> Plot:
    """Counts at a threshold, coloured by share of the row."""
    figure, axis = _one(4.4, 3.3)
    table = np.array([[counts.passed, counts.false_alarms], [counts.missed, counts.caught]])
    words = (("passed", "false alarm"), ("missed", "caught"))
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (i, j), count in np.ndenumerate(table):
        ink = "white" if shares[i, j] > 0.55 else INK
        axis.text(j, i - 0.08, f"{count}", ha="center", va="center", fontsize=17, color=ink)
        axis.text(j, i + 0.24, f"{words[i][j]}, {shares[i, j]:.1%}", ha="center", va="center", fontsize=9, color=ink)
    axis.set_xticks([0, 1], ["no alarm", "alarm"])
    axis.set_yticks([0, 1], [f"good\n({counts.good})", f"defective\n({counts.defects})"])
    axis.set(title="Confusion matrix", xlabel=f"what the model says (alarm from {threshold:.3g} on)", ylabel="what it is")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return figure


@_styled
def recall_against_false_alarms(labels: ArrayLike, scores: ArrayLike, points: Sequence[OperatingPoint]) -> Plot:
    """The receiver operating curve with a logarithmic false-alarm axis, and the chosen operating points on it."""
    figure, axis = _one(6.4, 3.6)
    rates, recalls = metrics.roc(labels, scores)
    least = 0.5 / max(int((~np.asarray(labels, dtype=bool)).sum()), 1)
    axis.step(np.maximum(rates, least), recalls, where="post", color=GOOD, label="every threshold")
    for number, point in enumerate(points):
        low, high = metrics.interval(point.counts.caught, point.counts.defects)
        recall = point.counts.recall
        label = None if number else "thresholds chosen on validation images"
        axis.errorbar(max(point.counts.false_alarm_rate, least), recall, yerr=[[recall - low], [high - recall]], fmt="o",
                      color=DEFECT, capsize=3, label=label)  # fmt: skip
        axis.axvline(point.asked, color=QUIET, linestyle=":", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(least, 1.0)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3%}".rstrip("%").rstrip("0").rstrip(".") + "%"))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lows = [metrics.interval(point.counts.caught, point.counts.defects)[0] for point in points]
    bottom = max(0.0, min([*lows, float(recalls[rates <= least].max(initial=0.0))]) - 0.05)
    axis.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
    axis.set(title="Recall against false alarms", xlabel="false-alarm rate (share of good parts, log scale)",
             ylabel="recall (share of defects caught)")  # fmt: skip
    axis.legend(loc="lower right")
    return figure


@_styled
def recall_bars(found: Mapping[str, tuple[int, int]], title: str) -> Plot:
    """Recall per name, with its interval and the counts that it rests on."""
    figure, axis = _one(6.4, 0.42 * len(found) + 1.1)
    for row, (caught, total) in enumerate(found.values()):
        low, high = metrics.interval(caught, total)
        share = caught / total
        axis.barh(row, share, color=DEFECT, alpha=0.85, height=0.62)
        axis.errorbar(share, row, xerr=[[share - low], [high - share]], color=INK, capsize=3, linewidth=1)
    axis.set_yticks(range(len(found)), [f"{name} ({caught} of {total})" for name, (caught, total) in found.items()])
    axis.invert_yaxis()
    axis.set_xlim(0.0, 1.0)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set(title=title, xlabel="recall (share of defects caught; lines: 95 % interval)")
    axis.grid(visible=False, axis="y")
    return figure


@_styled
def bars(found: Mapping[str, float], title: str, label: str, mark: float | None = None, mark_label: str = "") -> Plot:
    """One bar per name; a dotted line marks a claim or a limit to compare with."""
    figure, axis = _one(6.4, 0.42 * len(found) + 1.2)
    drawn = axis.barh(range(len(found)), list(found.values()), color=GOOD, alpha=0.85, height=0.62)
    axis.bar_label(drawn, fmt="{:.3g}", padding=3, fontsize=9)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(title=title, xlabel=label)
    if mark is not None:
        axis.axvline(mark, color=DEFECT, linestyle=":", linewidth=1.5, label=mark_label)
        axis.legend(loc="lower right")
    axis.grid(visible=False, axis="y")
    return figure


@_styled
def lines(found: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, xlabel: str, ylabel: str) -> Plot:
    """One line per name, each its x and its y values."""
    figure, axis = _one(6.4, 3.4)
    styles = (GOOD, DEFECT, INK, QUIET)
    for number, (name, (x, y)) in enumerate(found.items()):
        dashes = "-" if number < len(styles) else "--"
        axis.plot(x, y, color=styles[number % len(styles)], linestyle=dashes, marker="o", markersize=3, label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.legend()
    return figure


@_styled
def roofline(limits: Mapping[str, tuple[float, float]], kernels: Sequence[tuple[str, float, float]], title: str) -> Plot:
    """Roofs, each from operations and bytes per second, and operations under them: name, operations per byte, per second."""
    figure, axis = _one(6.4, 4.2)
    least = min(intensity for _, intensity, _ in kernels) / 2
    most = 2 * max([flops / moved for flops, moved in limits.values()] + [intensity for _, intensity, _ in kernels])
    at = np.geomspace(least, most, 200)
    for number, (name, (flops, moved)) in enumerate(limits.items()):
        roof = np.minimum(flops, at * moved) / 1e12
        axis.plot(at, roof, color=(GOOD, DEFECT, INK, QUIET)[number % 4], label=f"roof in {name}")
    for number, (name, intensity, flops) in enumerate(kernels):
        axis.plot(intensity, flops / 1e12, marker="osD^vP*X"[number % 8], color=INK, linestyle="none", label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set(title=title, xlabel="operations per byte moved", ylabel="TFLOP/s (log scale, higher is better)")
    axis.legend(fontsize=7, loc="lower right")
    return figure


@_styled
def two_histograms(labels: ArrayLike, scores: ArrayLike, threshold: float, title: str) -> Plot:
    """How the scores of good parts and of defects lie, and the threshold between them."""
    figure, axis = _one(6.4, 3.0)
    bad, numbers = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    edges = np.linspace(numbers.min(), numbers.max(), 41).tolist()
    axis.hist(numbers[~bad], bins=edges, color=GOOD, alpha=0.7, label=f"good ({int((~bad).sum())})")
    axis.hist(numbers[bad], bins=edges, color=DEFECT, alpha=0.6, hatch="//", label=f"defective ({int(bad.sum())})")
    axis.axvline(threshold, color=INK, linestyle=":", label=f"threshold {threshold:.3g}")
    axis.set(title=title, xlabel="score (higher means more unusual)", ylabel="images")
    axis.legend()
    return figure


@_styled
def what_it_saw(
    data: DataSet, maps: NDArray[np.float32], scores: ArrayLike, indices: Sequence[int], titles: Sequence[str]
) -> Plot:
    """Images above, and below them the same images under the network's map; the defect's outline where it is known."""
    columns = max(len(indices), 1)
    figure = Plot(figsize=(1.45 * columns, 3.3), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    numbers = np.asarray(scores)
    shown = None
    for j, (index, title) in enumerate(zip(indices, titles, strict=True)):
        mask = None if data.masks is None else data.masks[index]
        _picture(axes[0, j], data.images[index], None)
        axes[0, j].set_title(f"{title}\nscore {numbers[index]:.2f}", fontsize=8, loc="center", fontweight="normal")
        _picture(axes[1, j], data.images[index], mask)
        height, width = data.images.shape[1:]
        shown = axes[1, j].imshow(maps[index], cmap="inferno", vmin=0.0, vmax=1.0, alpha=0.5, interpolation="bilinear",
                                  extent=(-0.5, width - 0.5, height - 0.5, -0.5))  # fmt: skip
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("what it saw")
    if shown is not None:
        figure.colorbar(shown, ax=axes, label="defect here?", shrink=0.7, aspect=25, ticks=[0.0, 0.5, 1.0])
    return figure


def _one(width: float, height: float) -> tuple[Plot, Axes]:
    figure = Plot(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _picture(axis: Axes, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    if mask is not None and mask.any():
        # Drawn around the defect and not upon it: a scratch is thinner than the line.
        around = ndimage.binary_dilation(mask, iterations=2).astype(float)
        axis.contour(around, levels=[0.5], colors=[DEFECT], linewidths=1.0)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from defectlab import data, metrics, plots, train
from matplotlib.figure import Figure

LABELS = np.array([False] * 40 + [True] * 20)
SCORES = np.concatenate([np.linspace(0.0, 0.6, 40), np.linspace(0.4, 1.0, 20)])
HISTORY = train.History([2.0, 1.0, 0.8], [2.2, 0.9, 1.0], best=1, seconds=3.0)


def points() -> list[metrics.OperatingPoint]:
    return [metrics.operating_point(LABELS, SCORES, rate) for rate in (0.0, 0.05, 1.0)]


CHARTS: dict[str, Callable[[], Figure]] = {
    "learning curve": lambda: plots.learning_curve(HISTORY),
    "confusion": lambda: plots.confusion_matrix(metrics.confusion(LABELS, SCORES, 0.5), 0.5),
    "recall": lambda: plots.recall_against_false_alarms(LABELS, SCORES, points()),
    "bars": lambda: plots.recall_bars({"pit": (0, 3), "scratch": (20, 20)}, "Recall"),
    "plain bars": lambda: plots.bars({"fp32": 3.0, "bf16": 1.5}, "Time", "ms", mark=2.0, mark_label="claim"),
    "lines": lambda: plots.lines({str(n): ([1, 2], [n, 2.0 * n]) for n in range(6)}, "Scaling", "ranks", "images per second"),
    "roofline": lambda: plots.roofline({"fp32": (1e12, 1e11)}, [("addition", 0.1, 8e9), ("product", 300.0, 9e11)], "Roofline"),
    "histograms": lambda: plots.two_histograms(LABELS, SCORES, 0.5, "Scores"),
}


@pytest.mark.parametrize("name", list(CHARTS))
def test_every_chart_has_a_title_labelled_axes_and_an_image(name: str) -> None:
    figure = CHARTS[name]()
    axis = figure.axes[0]
    assert axis.get_title(loc="left")
    assert axis.get_xlabel()
    assert axis.get_ylabel() or name in ("bars", "plain bars")
    image, about = figure._repr_png_()
    assert image.startswith(b"\x89PNG")
    assert 200 < about["width"] < 1200


def test_confusion_matrix_shows_counts() -> None:
    figure = plots.confusion_matrix(metrics.Confusion(caught=17, missed=3, false_alarms=2, passed=38), 0.5)
    assert {"17", "3", "2", "38"} <= {text.get_text() for text in figure.axes[0].texts}


def test_gallery_has_a_picture_of_each_source_and_kind(tiny: data.DataSet) -> None:
    figure = plots.gallery(tiny)
    assert len(figure.axes) == 3 * 7
    assert [axis.get_title(loc="center") for axis in figure.axes[:7]] == [
        "good", "blob", "crack", "pit", "scratch", "smear", "stain",
    ]  # fmt: skip
    assert figure._repr_png_()[0]


def test_pictures_without_masks_are_shown_too(tiny: data.DataSet) -> None:
    blind = dataclasses.replace(tiny, masks=None)
    assert plots.gallery(blind)._repr_png_()[0]
    maps = np.zeros((len(blind), 12, 12), np.float32)
    assert plots.what_it_saw(blind, maps, np.zeros(len(blind)), [0, 1], ["caught", "missed"])._repr_png_()[0]


def test_nothing_to_show_is_no_error(tiny: data.DataSet) -> None:
    maps = np.zeros((len(tiny), 12, 12), np.float32)
    assert plots.what_it_saw(tiny, maps, np.zeros(len(tiny)), [], [])._repr_png_()[0]

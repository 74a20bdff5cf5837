from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from defectlab import charts, drift, plots, signals


def texts(plot: plots.Plot) -> str:
    """All words of a plot."""
    axes = plot.get_axes()
    legends = [found for found in [*plot.legends, *(axis.get_legend() for axis in axes)] if found is not None]
    words = [word for axis in axes for word in (axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel())]
    words += [text.get_text() for axis in axes for text in axis.texts]
    return " | ".join(words + [text.get_text() for legend in legends for text in legend.get_texts()])


def is_picture(plot: plots.Plot) -> bool:
    return plot._repr_png_()[0].startswith(b"\x89PNG")


def test_waves_and_spectra_are_labelled() -> None:
    wave = signals.knocks(0.5, 20_000.0, 80.0)
    plot = charts.waves({"one": (wave, 20_000.0), "two": (wave, 20_000.0)}, title="Two signals")
    assert is_picture(plot)
    assert all(word in texts(plot) for word in ("Two signals", "one\n(g)", "two\n(g)", "time (ms)"))
    found = signals.envelope_spectrum(wave, 20_000.0, (2_000.0, 8_000.0)).between(0.0, 400.0)
    plot = charts.spectra({"envelope": found}, {"outer race": 80.0, "inner race": 110.0}, title="Spectra")
    assert is_picture(plot)
    assert all(word in texts(plot) for word in ("frequency (Hz)", "outer race and multiples", "inner race and multiples"))


def test_a_plane_counts_its_points() -> None:
    plot = charts.plane({"good": ([1, 2], [3, 4]), "bad": ([5], [60])}, title="t", xlabel="x", ylabel="y", lines=(4.0, 4.0))
    assert is_picture(plot)
    assert all(word in texts(plot) for word in ("good (2)", "bad (1)", "threshold"))
    assert plot.get_axes()[0].get_xscale() == "log"


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_control_chart_marks_an_alarm_only_where_there_is_one(shift: float) -> None:
    days = pd.date_range("2017-05-01", periods=40)
    residuals = pd.Series(np.tile([0.01, -0.01], 20), index=days)
    watched = drift.cusum(np.tile([0.1, -0.1], 10) - shift)
    plot = charts.control(residuals, {"CUSUM": (days[20:], watched)}, learnt_until=days[20], title="Days")
    assert is_picture(plot)
    assert ("first alarm" in texts(plot)) == (shift > 0)
    assert all(word in texts(plot) for word in ("Days", "learnt from", "limit", "too little"))


def test_stability_is_bold_where_it_moved() -> None:
    plot = charts.stability({"air": [0.1, 0.3], "power": [1.9, 0.0]}, ["6", "7"], title="Moved")
    assert is_picture(plot)
    bold = {text.get_text() for text in plot.get_axes()[0].texts if text.get_fontweight() == "bold"}
    assert bold == {"0.30", "1.90"}

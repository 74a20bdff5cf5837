from __future__ import annotations

import re
import threading

import numpy as np
import pytest
from defectlab import data, metrics, monitor, pictures, widgets
from defectlab.train import History, Progress, Watch
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def scores(tiny: data.DataSet) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.round(0.4 * tiny.labels + 0.6 * rng.random(len(tiny)), 3)


@pytest.fixture(scope="module")
def maps(tiny: data.DataSet) -> np.ndarray:
    return np.random.default_rng(0).random((len(tiny), 12, 12)).astype(np.float32)


def test_the_slider_starts_at_one_percent_and_tells_counts(tiny: data.DataSet, scores: np.ndarray) -> None:
    slider = widgets.ThresholdSlider(tiny, scores)
    counts = metrics.confusion(tiny.labels, scores, slider.threshold)
    assert counts.false_alarm_rate <= 0.01
    assert f"{counts.caught} of {counts.defects} defects caught" in slider._told.value
    assert "0 images changed sides" in slider._changed.value


def test_steps_show_the_images_on_the_other_side_than_at_the_beginning(tiny: data.DataSet, scores: np.ndarray) -> None:
    slider = widgets.ThresholdSlider(tiny, scores, threshold=0.5)
    before = slider.threshold
    for _ in range(3):
        slider._slider.value -= 1
    changed = (scores >= before) != (scores >= slider.threshold)
    assert changed.sum() >= 3
    defects = int((changed & tiny.labels).sum())
    words = f"{defects} defective and {changed.sum() - defects} good ones raise an alarm only now."
    assert f"{changed.sum()} images changed sides against a threshold of {before:.4g}: {words}" in slider._changed.value
    assert slider._changed.value.count("<img alt=") == min(changed.sum(), 8)
    assert slider._changed.value.count("alarm now") == 2 * min(changed.sum(), 8)
    counts = metrics.confusion(tiny.labels, scores, slider.threshold)
    assert f"({counts.false_alarms} of {counts.good} good parts)" in slider._told.value
    slider._here.click()
    assert f"0 images changed sides against a threshold of {slider.threshold:.4g}." in slider._changed.value
    slider._slider.value += 2
    assert "raise no alarm any more" in slider._changed.value


def test_both_ends_of_the_slider_make_sense(tiny: data.DataSet, scores: np.ndarray) -> None:
    slider = widgets.ThresholdSlider(tiny, scores)
    slider._slider.value = slider._slider.max
    assert "none, as there is no alarm" in slider._told.value
    slider._slider.value = 0
    assert "recall</th><td>100.0%" in slider._told.value
    assert "The 8 nearest to the threshold:" in slider._changed.value


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=20),
    before=st.sampled_from([0.0, 0.3, 0.5, 1.1]),
    after=st.sampled_from([0.0, 0.3, 0.5, 1.1]),
)
def test_who_changes_sides_lies_between_the_thresholds(scores: list[float], before: float, after: float) -> None:
    numbers = np.array(scores)
    found = widgets.sides_changed(numbers, before, after)
    low, high = sorted((before, after))
    assert sorted(found) == [i for i, score in enumerate(scores) if low <= score < high]
    assert list(np.abs(numbers[found] - after)) == sorted(np.abs(numbers[found] - after))


def test_the_viewer_goes_through_a_choice(tiny: data.DataSet, scores: np.ndarray, maps: np.ndarray) -> None:
    viewer = widgets.MaskViewer(tiny, scores, maps, {"defects": [int(i) for i in np.flatnonzero(tiny.labels)], "none": []})
    first = viewer._picture.value
    assert first.count("<img alt=") == 2
    assert f"score {scores.max():.3f}" in first
    viewer._number.value = 5
    assert viewer._picture.value != first
    viewer._which.value = "defects"
    assert viewer._number.value == 1
    assert viewer._number.max == int(tiny.labels.sum())
    outlined = viewer._picture.value
    viewer._outline.value = False
    assert viewer._picture.value != outlined
    viewer._which.value = "none"
    assert "There is none." in viewer._picture.value


def test_the_viewer_needs_no_map(tiny: data.DataSet, scores: np.ndarray) -> None:
    viewer = widgets.MaskViewer(tiny, scores)
    assert viewer._picture.value.count("<img alt=") == 2
    assert "with mask" in viewer._picture.value
    assert viewer._opacity.layout.display == "none", "a slider that changes nothing"
    viewer._number.value = len(tiny)
    assert f"score {scores.min():.3f}" in viewer._picture.value


def test_an_overlay_is_the_image_where_the_map_is_clear_and_has_an_outline() -> None:
    image = np.full((32, 32), 90, np.uint8)
    share, mask = np.zeros((32, 32), np.float32), np.zeros((32, 32), bool)
    mask[12:18, 12:18] = True
    plain = widgets.overlay(image, share, None, 0.5)
    assert (plain == 90).all()
    outlined = widgets.overlay(image, share, mask, 0.5)
    assert (outlined[14, 9] == (213, 94, 0)).all()
    assert (outlined[mask] == 90).all(), "the outline hides the defect"


def test_markup_in_a_name_is_text() -> None:
    assert "<script>" not in pictures.row([(np.zeros((4, 4), np.uint8), "<script>'x'")], "<script>")


def test_the_monitor_follows_and_stops(maps: np.ndarray) -> None:
    step, over = threading.Event(), threading.Event()

    def work(watch: Watch) -> History:
        watch(Progress(1, 4, 10, 40, 0.5, None, 2.0, 100.0))
        watch(Progress(2, 4, 20, 40, 0.4, 0.9, 4.0, 100.0))
        step.set()
        over.wait(30)
        watch(Progress(2, 4, 21, 40, 0.4, 0.9, 4.2, 100.0))
        return History()

    training = monitor.start(work)
    assert step.wait(30)
    shown, again = widgets.TrainingMonitor(training), widgets.TrainingMonitor(training)
    for view in (shown, again):
        assert view._bar.value == pytest.approx(0.5)
        assert re.search(r"Running: epoch 2 of 4, loss 0\.400, best validation loss 0\.900 in epoch 1", view._told.value)
        assert "at most 4 s to go" in view._told.value
        assert "<img alt=" in view._curve.value
    shown._button.click()
    assert shown._button.disabled
    over.set()
    assert training.wait(30)
    again.refresh()
    assert "Stopped: epoch 2 of 4" in again._told.value
    assert again._bar.bar_style == "warning"
    assert again._button.disabled


def test_a_failed_training_says_why_and_is_no_markup() -> None:
    def work(watch: Watch) -> History:
        raise ValueError("<b>no data</b>")

    training = monitor.start(work)
    assert training.wait(30)
    assert "Failed: ValueError: &lt;b&gt;no data&lt;/b&gt;" in widgets.TrainingMonitor(training)._told.value

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from defectlab import metrics
from defectlab.metrics import Confusion
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

LABELS = [0, 0, 0, 0, 1, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.8, 0.3, 0.7, 0.9]


def test_confusion_by_hand() -> None:
    assert metrics.confusion(LABELS, SCORES, 0.5) == Confusion(caught=2, missed=1, false_alarms=1, passed=3)
    assert metrics.confusion(LABELS, SCORES, 0.3) == Confusion(caught=3, missed=0, false_alarms=2, passed=2)
    counts = Confusion(caught=2, missed=1, false_alarms=1, passed=3)
    assert (counts.defects, counts.good, counts.recall, counts.false_alarm_rate) == (3, 4, 2 / 3, 1 / 4)
    assert math.isnan(Confusion(0, 0, 1, 1).recall)


def test_auroc_by_hand() -> None:
    # Of 12 pairs, the defect scores higher in 3 + 3 + 4 - 1 = 9 and ties in 1 of them.
    assert metrics.auroc(LABELS, SCORES) == pytest.approx((2 + 0.5 + 3 + 4) / 12)


@pytest.mark.parametrize(
    ("rate", "caught", "false_alarms"),
    [(0.0, 1, 0), (0.24, 1, 0), (0.25, 2, 1), (0.5, 3, 2), (1.0, 3, 4)],
)
def test_recall_at_a_false_alarm_rate_by_hand(rate: float, caught: int, false_alarms: int) -> None:
    point = metrics.operating_point(LABELS, SCORES, rate)
    assert (point.counts.caught, point.counts.false_alarms) == (caught, false_alarms)


def test_a_threshold_chosen_elsewhere_is_taken_as_it_is() -> None:
    point = metrics.operating_point(LABELS, SCORES, 0.01, threshold=0.75)
    assert point.counts == Confusion(caught=1, missed=2, false_alarms=1, passed=3)
    assert str(point) == (
        "asked for 1.0% false alarms: 1 of 4 (25.0%) came; 1 of 3 defects caught (33.3%, 95% interval 0.8% to 90.6%)"
    )


@pytest.mark.parametrize(
    ("hits", "tries", "low", "high"),
    # ref: Clopper and Pearson's table; with no hits the upper end is 1 - 0.025 ** (1 / n)
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129), (199, 200, 0.9725, 0.9999), (0, 0, 0.0, 1.0)],
)
def test_interval_is_clopper_and_pearsons(hits: int, tries: int, low: float, high: float) -> None:
    assert metrics.interval(hits, tries) == pytest.approx((low, high), abs=5e-5)


def test_recall_by_name_puts_the_worst_first_and_counts_defects_only() -> None:
    names = ["good", "good", "good", "pit", "scratch", "scratch", "pit"]
    found = metrics.recall_by(names, LABELS, SCORES, 0.5)
    assert list(found.items()) == [("scratch", (1, 2)), ("pit", (1, 1))]


@pytest.mark.parametrize(
    ("labels", "scores", "sentence"),
    [([1, 0], [0.5], "one of each per image"), ([1, 0], [0.5, float("nan")], "did the training diverge")],
)
def test_what_cannot_be_judged_is_refused(labels: list[int], scores: list[float], sentence: str) -> None:
    for judge in (metrics.auroc, metrics.roc, lambda a, b: metrics.confusion(a, b, 0.5)):
        with pytest.raises(ValueError, match=sentence):
            judge(labels, scores)


def test_a_rate_needs_good_parts_and_sense() -> None:
    with pytest.raises(ValueError, match="Without good parts"):
        metrics.threshold_for([1, 1], [0.1, 0.2], 0.01)
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.threshold_for(LABELS, SCORES, 5)


# Few different values, so that ties are the rule; both classes are there.
judged = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


def columns(pairs: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    # As float32, which is what a network gives.
    return np.array([label for label, _ in pairs]), np.array([value / 10 for _, value in pairs], dtype=np.float32)


@given(judged)
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = columns(pairs)
    compared = [Fraction(1 + (b > g) - (b < g), 2) for b in scores[labels] for g in scores[~labels]]
    assert metrics.auroc(labels, scores) == pytest.approx(float(sum(compared) / len(compared)))


@given(judged)
def test_roc_encloses_the_auroc_and_agrees_with_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = columns(pairs)
    rates, recalls = metrics.roc(labels, scores)
    assert (rates[0], recalls[0], rates[-1], recalls[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(recalls, rates) == pytest.approx(metrics.auroc(labels, scores))
    theirs = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(theirs[0], rates)
    assert np.allclose(theirs[1], recalls)


@given(judged, st.floats(0, 1))
def test_a_threshold_keeps_its_rate_and_none_lower_does(pairs: list[tuple[bool, int]], rate: float) -> None:
    labels, scores = columns(pairs)
    threshold = metrics.threshold_for(labels, scores, rate)
    good = int((~labels).sum())
    assert metrics.confusion(labels, scores, threshold).false_alarms <= rate * good + 1e-6
    lower = [float(score) for score in scores if score < threshold]
    if lower:
        assert metrics.confusion(labels, scores, max(lower)).false_alarms > rate * good - 1e-6


@given(judged, st.integers(-1, 11))
def test_every_image_is_counted_once(pairs: list[tuple[bool, int]], tenth: int) -> None:
    labels, scores = columns(pairs)
    counts = metrics.confusion(labels, scores, tenth / 10)
    assert counts.defects == labels.sum()
    assert counts.good == (~labels).sum()


@given(st.integers(0, 50), st.integers(1, 50))
def test_interval_holds_the_rate(hits: int, tries: int) -> None:
    hits = min(hits, tries)
    low, high = metrics.interval(hits, tries)
    assert 0.0 <= low <= hits / tries <= high <= 1.0


# --- against scikit-learn, and by drawing again

PAIRS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])), min_size=2, max_size=60).filter(
    lambda pairs: 0 < sum(bad for bad, _ in pairs) < len(pairs)
)


@given(pairs=PAIRS)
def test_areas_are_scikit_learns_also_with_ties(pairs: list[tuple[bool, float]]) -> None:
    bad, scores = [p[0] for p in pairs], [p[1] for p in pairs]
    assert metrics.auroc(bad, scores) == pytest.approx(roc_auc_score(bad, scores))
    assert metrics.average_precision(bad, scores) == pytest.approx(average_precision_score(bad, scores))


@given(pairs=PAIRS, rate=st.sampled_from([0.0, 0.01, 0.1, 0.33, 1.0]))
def test_recall_at_a_rate_is_read_off_scikit_learns_curve(pairs: list[tuple[bool, float]], rate: float) -> None:
    bad, scores = [p[0] for p in pairs], [p[1] for p in pairs]
    rates, recalls, _ = roc_curve(bad, scores, drop_intermediate=False)
    assert metrics.recall_at(bad, scores, rate) == pytest.approx(recalls[rates <= rate + 1e-9].max())


@given(pairs=PAIRS, seed=st.integers(0, 100))
def test_the_interval_is_the_same_for_the_same_seed_and_in_order(pairs: list[tuple[bool, float]], seed: int) -> None:
    bad, scores = [p[0] for p in pairs], [p[1] for p in pairs]
    one, other = (metrics.bootstrap(metrics.auroc, bad, scores, draws=20, seed=seed) for _ in range(2))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), nan_ok=True)
    assert math.isnan(one.low) or 0 <= one.low <= one.high <= 1
    assert one.value == metrics.auroc(bad, scores)


def test_drawing_again_gives_about_the_exact_interval() -> None:
    bad = np.array([True] * 200 + [False] * 200)
    scores = np.concatenate([np.where(np.arange(200) < 180, 1.0, 0.0), np.zeros(200)])
    found = metrics.bootstrap(lambda b, s: metrics.recall_at(b, s, 0.01), bad, scores)
    assert (found.low, found.high) == pytest.approx(metrics.interval(180, 200), abs=0.015)
    assert str(found).startswith("90.0% (95% interval 8")


def test_groups_make_the_interval_wider() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i // 20}" for i in range(400)]
    bad = np.repeat(rng.random(20) < 0.5, 20)
    scores = bad + np.repeat(rng.normal(0, 1.0, 20), 20)
    alone = metrics.bootstrap(metrics.auroc, bad, scores, draws=300)
    together = metrics.bootstrap(metrics.auroc, bad, scores, groups=groups, draws=300)
    assert together.high - together.low > 2 * (alone.high - alone.low)


@settings(max_examples=20)
@given(pairs=PAIRS, seed=st.integers(0, 20))
def test_a_detector_is_no_better_than_itself_and_turning_the_question_round_turns_the_answer(
    pairs: list[tuple[bool, float]], seed: int
) -> None:
    labels, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    other = np.random.default_rng(seed).permutation(scores)
    same = metrics.difference(metrics.auroc, labels, scores, scores, draws=5, seed=seed)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    there = metrics.difference(metrics.auroc, labels, scores, other, draws=20, seed=seed)
    back = metrics.difference(metrics.auroc, labels, other, scores, draws=20, seed=seed)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)


def test_pairs_tell_what_two_intervals_beside_each_other_cannot() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.5
    # What is hard is hard for both; one of them is a little better everywhere.
    shared = rng.normal(size=400)
    before, after = shared + 1.0 * labels, shared + 1.2 * labels
    alone = [metrics.bootstrap(metrics.auroc, labels, scores, draws=200) for scores in (before, after)]
    paired = metrics.difference(metrics.auroc, labels, before, after, draws=200)
    assert alone[0].high > alone[1].low
    assert paired.low > 0


@given(pairs=PAIRS, recall=st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.995, 1.0]))
def test_what_a_recall_costs_is_read_off_scikit_learns_curve(pairs: list[tuple[bool, float]], recall: float) -> None:
    bad, scores = zip(*pairs, strict=True)
    alarms, caught, _ = roc_curve(bad, scores, drop_intermediate=False)
    assert metrics.false_alarms_for(bad, scores, recall) == pytest.approx(alarms[caught >= recall - 1e-9].min())


def test_what_a_recall_costs_needs_both_kinds_and_sense() -> None:
    with pytest.raises(ValueError, match="needs defects and good parts"):
        metrics.false_alarms_for([True, True], [0.1, 0.2], 0.9)
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        metrics.false_alarms_for([True, False], [0.1, 0.2], 1.1)

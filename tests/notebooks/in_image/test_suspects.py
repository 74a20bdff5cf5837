from __future__ import annotations

import numpy as np
import pytest
from defectlab import data, features, labels, metrics, suspects
from hypothesis import given
from hypothesis import strategies as st

PAIRS = st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), min_size=1, max_size=40)


@given(pairs=PAIRS)
def test_doubt_is_the_probability_of_the_other_label_and_orders_the_looks(pairs: list[tuple[bool, float]]) -> None:
    bad, sure = np.array([b for b, _ in pairs]), np.array([p for _, p in pairs])
    found = suspects.judge(bad, sure)
    assert np.allclose(found.doubt, np.where(bad, 1 - sure, sure))
    assert sorted(found.order) == list(range(len(pairs)))
    assert (np.diff(found.doubt[found.order]) <= 0).all()
    # Turned round, good for defective, everything is as doubtful as before.
    mirrored = suspects.judge(~bad, 1 - sure)
    assert np.allclose(mirrored.doubt, found.doubt)
    if 0 < bad.sum() < len(bad):
        assert not (found.confident & (found.doubt == 0)).any()


def test_confident_learning_counts_a_label_as_wrong_by_the_usual_confidence_of_the_other() -> None:
    # ref: Northcutt et al. 2021, section 3.1, by hand: usual confidence .6 of defective and .8 of good labels
    bad = np.array([True, True, True, False, False, False])
    sure = np.array([0.95, 0.8, 0.05, 0.0, 0.0, 0.6])
    found = suspects.judge(bad, sure)
    assert found.confident.tolist() == [False, False, True, False, False, True]
    assert found.order.tolist()[0] == 2


def test_labels_of_one_sort_alone_are_not_counted_as_wrong() -> None:
    assert not suspects.judge([True, True], [0.1, 0.9]).confident.any()
    assert not suspects.judge([False, False], [0.1, 0.9]).confident.any()


def test_spoiled_labels_are_found_where_features_tell_the_truth(tiny: data.DataSet) -> None:
    noisy, wrong = labels.hurried(tiny, 0.1, seed=0)
    rows = np.random.default_rng(0).normal(size=(len(tiny), 10)).astype(np.float32)
    rows[:, 3] += 6.0 * tiny.labels
    found = suspects.find(rows, noisy, 1e-1)
    worth = suspects.worth(found.order, wrong, int(wrong.sum()))
    assert worth.precision > 0.9
    assert worth.by_chance == pytest.approx(0.1, abs=0.01)
    assert f"{worth.found} of {worth.looks} labels looked at were wrong" in str(worth)


def test_no_image_is_judged_by_a_model_that_has_seen_its_group(tiny: data.DataSet) -> None:
    """Features that tell the group and nothing else: whoever had seen a group would know its label by heart."""
    groups = [record.group for record in tiny.records]
    which = np.unique(groups, return_inverse=True)[1]
    said = {record.file: bool(which[i] % 2) for i, record in enumerate(tiny.records)}
    rows = np.eye(which.max() + 1, dtype=np.float32)[which]
    held = features.held_out(rows, labels.relabelled(tiny, said), 1.0)
    right = np.array([said[record.file] for record in tiny.records])
    assert metrics.auroc(right, held) < 0.6


@given(wrong=st.lists(st.booleans(), min_size=1, max_size=30), seed=st.integers(0, 3), looks=st.integers(0, 40))
def test_what_was_found_grows_to_everything(wrong: list[bool], seed: int, looks: int) -> None:
    order = np.random.default_rng(seed).permutation(len(wrong))
    seen = suspects.found_after(order, wrong)
    assert len(seen) == len(wrong) + 1
    assert (seen[0], seen[-1]) == (0, sum(wrong))
    assert set(np.diff(seen)) <= {0, 1}
    worth = suspects.worth(order, wrong, looks)
    assert worth.found == seen[min(looks, len(wrong))]
    assert worth.looks == min(looks, len(wrong))


@given(percents=st.lists(st.integers(0, 100), min_size=1, max_size=30), threshold=st.floats(0.0, 1.0))
def test_the_unsure_come_first(percents: list[int], threshold: float) -> None:
    sure = [percent / 100 for percent in percents]
    order = suspects.unsure(sure, threshold)
    assert sorted(order) == list(range(len(sure)))
    above = [p for p in np.array(sure)[order] if p >= threshold]
    assert above == sorted(above)

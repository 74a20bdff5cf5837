from __future__ import annotations

import numpy as np
import pytest
from defectlab import drift
from hypothesis import given, settings
from hypothesis import strategies as st

NUMBERS = st.lists(st.floats(-5.0, 5.0), min_size=2, max_size=40)


def test_cusum_by_hand() -> None:
    found = drift.cusum([1.0, 1.5, -3.0, 0.0, 2.0], slack=0.5, limit=1.4)
    assert found.up.tolist() == [0.5, 1.5, 0.0, 0.0, 1.5]
    assert found.down.tolist() == [0.0, 0.0, 2.5, 2.0, 0.0]
    assert found.alarms.tolist() == [False, True, True, True, True]
    assert int(found.first) == 1


def test_cusum_stays_silent_as_long_as_the_literature_says() -> None:
    # ref: Hawkins and Olwell 1998, both sides, slack 0.5: mean run length 168 at limit 4, 465 at limit 5; 10.4 after a shift of 1
    # with limit 5.
    rng = np.random.default_rng(0)
    for limit, length, expected in ((4.0, 2000, 168.0), (5.0, 5000, 465.0)):
        runs = drift.cusum(rng.normal(size=(1500, length)), limit=limit).first + 1
        assert float(runs.mean()) == pytest.approx(expected, rel=0.08)
    shifted = drift.cusum(rng.normal(1.0, size=(2000, 200)), limit=5.0).first + 1
    assert float(shifted.mean()) == pytest.approx(10.4, rel=0.05)


def test_ewma_stays_silent_as_long_as_the_literature_says() -> None:
    # ref: Lucas and Saccucci 1990, weight 0.2, limit 2.962: mean run length 500, 10.5 after a shift of 1. With limits that follow
    # the first days' smaller spread, as here, it is a little less.
    rng = np.random.default_rng(0)
    runs = drift.ewma(rng.normal(size=(1500, 5000)), weight=0.2, limit=2.962).first + 1
    assert 430.0 < float(runs.mean()) < 540.0
    shifted = drift.ewma(rng.normal(1.0, size=(2000, 300)), weight=0.2, limit=2.962).first + 1
    assert 8.0 < float(shifted.mean()) < 11.5


@given(NUMBERS)
def test_charts_see_both_sides_alike(values: list[float]) -> None:
    for chart in (drift.cusum, drift.ewma):
        one, other = chart(values), chart([-value for value in values])
        assert one.up == pytest.approx(other.down)
        assert one.alarms.tolist() == other.alarms.tolist()


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_many_histories_are_as_good_as_one_by_one(rows: list[list[float]]) -> None:
    size = min(map(len, rows))
    table = np.array([row[:size] for row in rows])
    for chart in (drift.cusum, drift.ewma):
        together = chart(table)
        assert together.first.tolist() == [int(chart(row).first) for row in table]


def test_ewma_of_weight_one_looks_at_single_days() -> None:
    found = drift.ewma([0.0, 3.1, -2.9, -3.1], weight=1.0, limit=3.0)
    assert found.alarms.tolist() == [False, True, False, True]
    with pytest.raises(ValueError, match="between 0 and 1"):
        drift.ewma([1.0], weight=0.0)


def test_standard_units_come_from_the_reference() -> None:
    assert drift.standard([5.0], [1.0, 2.0, 3.0]).tolist() == [3.0]
    for still in ([1.0, 1.0], [1.0]):
        with pytest.raises(ValueError, match="does not vary"):
            drift.standard([1.0], still)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(500, 3000))
def test_stability_is_small_for_the_same_and_grows_with_the_shift(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    reference, same = rng.normal(size=size), rng.normal(size=size)
    found = [drift.population_stability(reference, same + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert 0.0 <= found[0] < 0.1
    assert found[0] < found[1] < found[2] < found[3]
    assert found[3] > drift.MOVED


def test_stability_tells_small_samples_as_it_says() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=100_000)
    found = np.mean([drift.population_stability(reference, rng.normal(size=100)) for _ in range(300)])
    assert found == pytest.approx(9 / 100, rel=0.3)


@given(st.integers(1, 10), st.integers(1, 60), st.integers(0, 50))
def test_histories_are_made_of_blocks_that_were_there(block: int, length: int, seed: int) -> None:
    values = np.arange(30.0)
    found = drift.histories(values, length, 3, block=block, seed=seed)
    assert found.shape == (3, length)
    steps = np.diff(found, axis=1)
    inside = [place for place in range(length - 1) if (place + 1) % block]
    assert (steps[:, inside] == 1.0).all()


def test_a_block_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        drift.histories([1.0, 2.0], 5, 1, block=3)


@given(st.floats(-2.0, 2.0), st.floats(-10.0, 10.0))
def test_a_trend_is_taken_away_and_told(slope: float, level: float) -> None:
    times = np.arange(20.0) ** 1.3
    rest, found = drift.without_trend(level + slope * times, times)
    assert found == pytest.approx(slope, abs=1e-6)
    assert np.abs(rest).max() < 1e-6


def test_limits_keep_the_promised_share_silent() -> None:
    quiet = np.random.default_rng(0).normal(size=(2000, 100))
    limit = drift.limit_for(lambda limit: drift.cusum(quiet, limit=limit), silent=0.9)
    assert np.mean(drift.cusum(quiet, limit=limit).first == 100) == pytest.approx(0.9, abs=0.002)


def test_delays_count_from_the_change_and_leave_false_alarms_out() -> None:
    values = np.zeros((3, 10))
    values[0, 6:] = 9.0
    values[1, 2] = 9.0
    found = drift.delays(drift.ewma(values, weight=1.0), start=5)
    assert found.tolist() == [1.0, np.inf]

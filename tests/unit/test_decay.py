"""The fair share's arithmetic, by its properties."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.decay import decayed, used
from tests.unit.values import T0, after

HALF = timedelta(days=7)
moments = st.floats(0, 3e7)
lengths = st.floats(0.1, 1e7)


def test_half_is_left_after_a_half_life():
    assert decayed(100, T0, T0 + HALF, HALF) == pytest.approx(50)
    assert decayed(100, T0, T0 + 3 * HALF, HALF) == pytest.approx(12.5)


def test_a_clock_that_was_set_back_lets_nothing_grow():
    assert decayed(100, after(60), T0, HALF) == 100
    assert used(1, after(60), T0, T0, HALF) == 0


def test_a_short_use_counts_its_seconds():
    assert used(2, T0, after(10), after(10), HALF) == pytest.approx(20, rel=1e-4)


@given(st.integers(1, 64), moments, lengths, lengths, lengths)
def test_a_use_in_two_parts_counts_as_much_as_in_one(gpus: int, begin: float, first: float, second: float, later: float):
    middle, end, now = begin + first, begin + first + second, begin + first + second + later
    whole = used(gpus, after(begin), after(end), after(now), HALF)
    parts = used(gpus, after(begin), after(middle), after(now), HALF) + used(gpus, after(middle), after(end), after(now), HALF)
    assert parts == pytest.approx(whole, rel=1e-6, abs=1e-6)


@given(st.integers(1, 64), lengths, lengths)
def test_bringing_a_sum_up_to_date_in_steps_changes_nothing(gpus: int, length: float, later: float):
    at_end = used(gpus, T0, after(length), after(length), HALF)
    assert decayed(at_end, after(length), after(length + later), HALF) == pytest.approx(
        used(gpus, T0, after(length), after(length + later), HALF), rel=1e-6
    )


@given(st.integers(1, 64), lengths, lengths)
def test_longer_counts_more_and_longer_ago_counts_less(gpus: int, length: float, more: float):
    short, longer = (used(gpus, T0, after(n), after(length + more), HALF) for n in (length, length + more))
    assert short < longer <= gpus * (length + more) * 1.000001
    assert decayed(short, T0, after(more), HALF) < short


@given(st.floats(0, 1e12), moments, moments)
def test_nothing_becomes_more_or_less_than_nothing(amount: float, at: float, now: float):
    assert 0 <= decayed(amount, after(at), after(now), HALF) <= amount

"""Cross-validation: every image is judged once, by a model that did not see it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from defectlab import folds
from hypothesis import given
from hypothesis import strategies as st

kinds = st.lists(st.integers(5, 30), min_size=1, max_size=4).flatmap(
    lambda counts: st.permutations([kind for kind, count in enumerate(counts) for _ in range(count)])
)
runs = st.lists(st.integers(1, 12), min_size=5, max_size=20)


@given(kinds, st.integers(2, 5), st.integers(0, 3))
def test_at_random_every_part_has_its_share_of_every_kind(found: list[int], parts: int, seed: int) -> None:
    part = folds.stratified(found, parts, seed=seed)
    for kind, count in Counter(found).items():
        shares = np.bincount(part[np.array(found) == kind], minlength=parts)
        assert shares.min() >= count // parts
        assert shares.max() <= -(-count // parts)
    assert np.array_equal(part, folds.stratified(found, parts, seed=seed))


@given(runs, st.integers(2, 5))
def test_blocks_are_runs_that_cut_no_group(sizes: list[int], parts: int) -> None:
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    part = folds.blocks(groups, parts)
    assert list(part) == sorted(part)
    assert set(part) == set(range(parts))
    assert all(len({p for p, name in zip(part, groups, strict=True) if name == group}) == 1 for group in set(groups))


@given(runs)
def test_blocks_of_equal_groups_are_about_equal(sizes: list[int]) -> None:
    groups = [f"g{number}" for number in range(len(sizes)) for _ in range(3)]
    counts = np.bincount(folds.blocks(groups, 5))
    assert counts.max() - counts.min() <= 3


@given(st.lists(st.integers(0, 4), min_size=5, max_size=50))
def test_nobody_is_judged_by_who_saw_them(part: list[int]) -> None:
    seen: list[int] = []

    def judge(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        assert not set(inside) & set(outside)
        assert len(inside) + len(outside) == len(part)
        seen.extend(outside)
        return outside.astype(float)

    assert np.array_equal(folds.held_out(np.array(part), judge), np.arange(len(part)))
    assert sorted(seen) == list(range(len(part)))


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(ValueError, match="at least 5 images"):
        folds.stratified([0] * 9 + [1] * 4)
    with pytest.raises(ValueError, match="cannot be cut into 5 parts"):
        folds.blocks(["a", "a", "b"])
    with pytest.raises(ValueError, match="do not follow each other"):
        folds.blocks(["a", "b", "a"], 2)


def test_the_nearest_is_the_twin_and_never_oneself() -> None:
    one = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    both = np.concatenate([one, one + 1e-3])
    assert np.array_equal(folds.nearest(both), np.r_[20:40, 0:20])

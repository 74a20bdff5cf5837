"""Machines that vote on frozen features."""

from __future__ import annotations

import numpy as np
import pytest
from defectlab import committee, data, features, metrics


def made(n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two views of images whose defects show in both, from three sides."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.4
    views = []
    for length in (30, 50):
        rows = rng.normal(size=(3, n, length)).astype(np.float32)
        rows[:, :, :3] += 1.2 * bad[None, :, None]
        views.append(rows)
    return views, bad


def test_it_learns_and_two_views_beat_one() -> None:
    views, bad = made(300, 0)
    fresh, truth = made(600, 1)
    both = metrics.auroc(truth, committee.fit(views, bad).scores(fresh))
    alone = [metrics.auroc(truth, committee.fit([one], bad).scores([other])) for one, other in zip(views, fresh, strict=True)]
    assert both > max(alone) > 0.8


def test_it_says_the_same_twice_and_needs_every_view() -> None:
    views, bad = made(80, 0)
    first, second = (committee.fit(views, bad).scores(views) for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="argument"):
        committee.fit(views, bad).scores(views[:1])


def test_labels_without_weight_are_not_believed() -> None:
    views, bad = made(300, 0)
    fresh, truth = made(600, 1)
    wrong = np.random.default_rng(2).random(300) < 0.35
    told = bad ^ wrong
    believed = committee.fit(views, told).scores(fresh)
    doubted = committee.fit(views, told, np.where(wrong, 0.0, 1.0)).scores(fresh)
    assert metrics.auroc(truth, doubted) > metrics.auroc(truth, believed)


def test_fewer_images_than_directions_and_a_dead_feature_are_no_trouble() -> None:
    views, bad = made(20, 3)
    views[0][:, :, 7] = 1.0
    assert np.isfinite(committee.fit(views, bad).scores(views)).all()


def test_sides_are_the_image_and_its_mirrors(tiny: data.DataSet) -> None:
    few, recipe = tiny.take(range(4)), features.Recipe(size=64, stages=(1,))
    sides = features.from_sides(few, recipe, progress=False)
    assert sides.shape == (3, 4, recipe.length)
    assert np.array_equal(sides[0], features.extract(few, recipe, progress=False))
    assert not np.allclose(sides[0], sides[1])


def test_a_cpu_gets_large_images_in_small_batches() -> None:
    assert [features.batch_size(size) for size in (96, 224, 300, 2000)] == [64, 14, 8, 1]
    assert features.batch_size(300, "cuda") == 64

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from defectlab import anomaly, data, metrics
from hypothesis import given
from hypothesis import strategies as st

QUICK = anomaly.Settings(size=96, stages=(1, 2), sampled=2000, bank=200)


@pytest.fixture(scope="module")
def good(tiny: data.DataSet) -> data.DataSet:
    return tiny.take(np.flatnonzero(~tiny.labels))


@pytest.fixture(scope="module")
def detector(good: data.DataSet) -> anomaly.Detector:
    return anomaly.fit(good, QUICK, progress=False)


def test_the_memory_has_the_size_asked_for(detector: anomaly.Detector) -> None:
    assert detector.bank.shape == (200, 24 + 40)
    assert torch.isfinite(detector.bank).all()


def test_a_foreign_patch_is_found_where_it_is(good: data.DataSet, detector: anomaly.Detector) -> None:
    before, _ = detector.scores(good, progress=False)
    spoilt = good.images.copy()
    spoilt[:, 24:48, 48:72] = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    scores, maps = detector.scores(dataclasses.replace(good, images=spoilt), progress=False)
    assert maps.shape == (len(good), 24, 24)
    assert metrics.auroc([False] * len(good) + [True] * len(good), np.concatenate([before, scores])) > 0.95
    y, x = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:])
    assert np.mean((y >= 5) & (y <= 12) & (x >= 11) & (x <= 18)) > 0.9


@given(seed=st.integers(0, 10_000), gain=st.floats(0.6, 1.0), offset=st.floats(0.0, 0.3))
def test_another_lamp_is_nothing_unusual_unless_brightness_counts(seed: int, gain: float, offset: float) -> None:
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    once, again = (anomaly.prepared(some, QUICK) for some in (images, gain * images + offset))
    assert once.shape == (2, 3, QUICK.size, QUICK.size)
    # The small term that keeps a plain image from being blown up makes a little of a difference.
    assert torch.allclose(once, again, atol=0.03)
    as_it_is = dataclasses.replace(QUICK, even_light=False)
    moved = (anomaly.prepared(gain * images + offset, as_it_is) - anomaly.prepared(images, as_it_is)).mean(dim=(1, 2, 3))
    assert torch.allclose(moved, (gain - 1.0) * images.mean(dim=(1, 2, 3)) + offset, atol=0.01)


def test_the_same_seed_remembers_the_same(good: data.DataSet, detector: anomaly.Detector) -> None:
    assert torch.equal(anomaly.fit(good, QUICK, progress=False).bank, detector.bank)
    other = anomaly.fit(good, dataclasses.replace(QUICK, seed=1), progress=False)
    assert not torch.equal(other.bank, detector.bank)


def test_a_smaller_memory_is_the_beginning_of_the_larger_one(good: data.DataSet, detector: anomaly.Detector) -> None:
    small = anomaly.thinned(detector, 50)
    assert torch.equal(small.bank, detector.bank[:50])
    assert small.settings.bank == 50
    assert (small.scores(good, progress=False)[1] >= detector.scores(good, progress=False)[1] - 1e-4).all()


def test_it_never_learns_from_a_defect(tiny: data.DataSet, good: data.DataSet) -> None:
    for images in (tiny, good.take([])):
        with pytest.raises(ValueError, match="good parts alone"):
            anomaly.fit(images, QUICK, progress=False)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 50), bank=st.integers(1, 30), channels=st.integers(1, 8))
def test_nearest_is_the_nearest(seed: int, rows: int, bank: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, kept = torch.randn(rows, channels, generator=generator), torch.randn(bank, channels, generator=generator)
    expected = torch.cdist(points, kept).min(dim=1).values / channels**0.5
    assert torch.allclose(anomaly.nearest(points, kept), expected, atol=1e-3)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_what_remains_covers_the_rest(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(50, 3, generator=generator)
    chosen = anomaly.spread_out(points, count, generator)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, 50)
    if count < 50:
        # Greedy: the chosen are no nearer to each other than the farthest of the others is to them.
        reach = torch.cdist(points, points[chosen]).min(dim=1).values.max()
        apart = torch.cdist(points[chosen], points[chosen]) + torch.eye(len(chosen)) * 1e9
        assert float(apart.min()) >= float(reach) - 1e-3


def test_smoothing_spreads_and_keeps_the_sum() -> None:
    maps = np.zeros((1, 21, 21), np.float32)
    maps[0, 10, 10] = 1.0
    soft = anomaly.smoothed(maps)
    assert soft.sum() == pytest.approx(1.0, abs=1e-3)
    assert soft.max() < 0.2

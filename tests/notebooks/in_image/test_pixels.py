from __future__ import annotations

import numpy as np
import pytest
from defectlab import pixels
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import roc_auc_score


def scene(seed: int, coarse: bool = False) -> tuple[pixels.Masks, pixels.Maps]:
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((3, 14, 14)) > 0.985, structure=np.ones((1, 3, 3)))
    masks[0, 2:4, 2:5] = True
    maps = (0.7 * masks + rng.random(masks.shape)).astype(np.float32)
    return masks, np.round(maps * 4) / 4 if coarse else maps


def slow_pro(masks: pixels.Masks, maps: pixels.Maps, limit: float) -> float:
    """By the definition: every threshold, every defect."""
    regions = []
    for image, mask in enumerate(masks):
        marked, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, marked == number) for number in range(1, count + 1)]
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        alarm = maps >= threshold
        x.append(alarm[~masks].mean())
        y.append(np.mean([alarm[image][where].mean() for image, where in regions]))
    fine = np.linspace(0.0, limit, 60_001)
    return float(np.trapezoid(np.interp(fine, x, y), fine) / limit)


@given(seed=st.integers(0, 10_000), limit=st.sampled_from([0.05, 0.3, 1.0]), coarse=st.booleans())
def test_pro_is_what_its_definition_says(seed: int, limit: float, coarse: bool) -> None:
    masks, maps = scene(seed, coarse)
    assert pixels.pro(masks, maps, limit) == pytest.approx(slow_pro(masks, maps, limit), abs=2e-3)


@given(seed=st.integers(0, 10_000))
def test_pixel_auroc_is_scikit_learns(seed: int) -> None:
    masks, maps = scene(seed)
    assert pixels.auroc(masks, maps) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))


@given(seed=st.integers(0, 10_000))
def test_only_the_order_of_scores_counts(seed: int) -> None:
    masks, maps = scene(seed)
    assert pixels.pro(masks, np.exp(3 * maps)) == pytest.approx(pixels.pro(masks, maps))


def test_a_perfect_map_has_1_and_guessing_half_the_limit() -> None:
    masks, _ = scene(0)
    assert pixels.pro(masks, masks.astype(np.float32)) == pytest.approx(1.0)
    many = np.zeros((60, 40, 40), dtype=bool)
    many[:, 5:15, 5:15] = True
    guess = np.random.default_rng(0).random(many.shape).astype(np.float32)
    assert pixels.pro(many, guess) == pytest.approx(0.15, abs=0.01)
    assert pixels.pro(many, np.ones(many.shape, np.float32)) == pytest.approx(0.15)


def test_a_small_defect_counts_as_much_as_a_large_one() -> None:
    masks = np.zeros((1, 40, 40), dtype=bool)
    masks[0, :20, :20], masks[0, 30, 30] = True, True
    only_large, only_small = masks.astype(np.float32), masks.astype(np.float32)
    only_large[0, 30, 30], only_small[0, :20, :20] = -1, -1
    assert pixels.pro(masks, only_large) == pytest.approx(pixels.pro(masks, only_small))
    assert pixels.auroc(masks, only_large) > 0.99 > 0.1 > pixels.auroc(masks, only_small)


def test_a_coarse_map_grows_without_shifting() -> None:
    coarse = np.zeros((1, 8, 8), dtype=np.float32)
    coarse[0, 2, 5] = 1.0
    grown = pixels.resized(coarse, (64, 64))
    assert ndimage.center_of_mass(grown[0]) == pytest.approx((2.5 * 8 - 0.5, 5.5 * 8 - 0.5), abs=1e-5)
    assert pixels.resized(grown, (64, 64)) is grown


@pytest.mark.parametrize(
    ("masks", "maps", "said"),
    [
        (np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), np.float32), "pixels with a defect"),
        (np.ones((1, 4, 4), bool), np.zeros((1, 4, 4), np.float32), "pixels without"),
        (np.eye(4, dtype=bool)[None], np.zeros((1, 2, 2), np.float32), "See `resized`"),
        (np.eye(4, dtype=bool)[None], np.full((1, 4, 4), np.nan, np.float32), "not a number"),
    ],
)
def test_what_cannot_be_judged_is_said(masks: pixels.Masks, maps: pixels.Maps, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pixels.pro(masks, maps)


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        pixels.pro(*scene(0), limit=0.0)

from __future__ import annotations

import pytest
import torch
from defectlab import transforms
from defectlab.transforms import Blur, Chain, Light, Noise, Transform, Turn, Wobble
from hypothesis import given
from hypothesis import strategies as st

GEOMETRY = {"turn": Turn(), "wobble": Wobble(degrees=20, shift=0.1, zoom=0.2)}
LIGHT = {"light": Light(0.2, 0.1), "noise": Noise(0.05), "blur": Blur(1.0, share=1.0)}
SEEDS = st.integers(0, 2**31)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blots(seed: int, size: tuple[int, int] = (24, 24), count: int = 4) -> torch.Tensor:
    """Masks with a few rectangles."""
    generator = drawn(seed)
    masks = torch.zeros(count, 1, *size)
    for mask in masks:
        y, x = (int(torch.randint(2, side - 10, (1,), generator=generator)) for side in size)
        mask[0, y : y + 7, x : x + 5] = 1.0
    return masks


@pytest.mark.parametrize("name", list(GEOMETRY))
@given(seed=SEEDS)
def test_masks_go_where_their_pixels_go(name: str, seed: int) -> None:
    """An image that is its own mask stays so, whatever happens to it."""
    masks = blots(seed)
    images, moved = GEOMETRY[name](masks, masks, drawn(seed))
    assert moved is not None
    assert set(moved.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(images > 0.5, moved > 0.5)


@pytest.mark.parametrize("name", list(GEOMETRY))
@given(seed=SEEDS)
def test_images_move_alike_with_masks_and_without(name: str, seed: int) -> None:
    images = torch.rand(3, 1, 16, 16, generator=drawn(seed))
    masks = blots(seed, (16, 16), 3)
    assert torch.equal(GEOMETRY[name](images, masks, drawn(seed))[0], GEOMETRY[name](images, None, drawn(seed))[0])


@pytest.mark.parametrize("name", list(LIGHT))
@given(seed=SEEDS)
def test_light_leaves_masks_alone(name: str, seed: int) -> None:
    images, masks = torch.rand(4, 1, 24, 24, generator=drawn(seed)), blots(seed)
    varied, same = LIGHT[name](images, masks, drawn(seed))
    assert same is masks
    assert varied.shape == images.shape
    assert not torch.equal(varied, images)


@given(seed=SEEDS)
def test_a_turn_loses_and_mixes_no_pixel(seed: int) -> None:
    images = torch.rand(8, 1, 12, 12, generator=drawn(seed))
    turned, _ = Turn()(images, None, drawn(seed))
    assert torch.equal(turned.flatten(1).sort(dim=1).values, images.flatten(1).sort(dim=1).values)


def test_a_turn_comes_in_all_eight_ways_and_keeps_the_shape_of_what_is_not_square() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(400, 1, 1, 1)
    turned, _ = Turn()(image, None, drawn(0))
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8
    oblong = torch.arange(6.0).reshape(1, 1, 2, 3).repeat(400, 1, 1, 1)
    turned, _ = Turn()(oblong, None, drawn(0))
    assert turned.shape == oblong.shape
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 4


def test_a_wobble_of_nothing_changes_nothing() -> None:
    images = torch.rand(2, 1, 20, 30)
    still, _ = Wobble(degrees=0, shift=0, zoom=0)(images, None, drawn(1))
    assert torch.allclose(still, images, atol=1e-5)


@pytest.mark.parametrize("chain", [transforms.GENTLE, transforms.STRONG], ids=["gentle", "strong"])
@given(seed=SEEDS)
def test_the_same_seed_varies_alike_and_the_original_stays(chain: Chain, seed: int) -> None:
    images, masks = torch.rand(4, 1, 24, 24, generator=drawn(seed)), blots(seed)
    before = images.clone(), masks.clone()
    one, other = chain(images, masks, drawn(seed)), chain(images, masks, drawn(seed))
    assert torch.equal(one[0], other[0])
    assert one[1] is not None
    assert other[1] is not None
    assert torch.equal(one[1], other[1])
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_a_blur_keeps_the_mean_and_softens() -> None:
    images = torch.rand(4, 1, 32, 32)
    soft, _ = Blur(1.0, share=1.0)(images, None, drawn(0))
    assert torch.allclose(soft.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=0.02)
    assert (soft.std(dim=(1, 2, 3)) < 0.6 * images.std(dim=(1, 2, 3))).all()


def test_a_transform_of_ones_own_fits_in() -> None:
    def negative(images: torch.Tensor, masks: torch.Tensor | None, _: torch.Generator) -> transforms.Pair:
        return 1.0 - images, masks

    own: Transform = negative
    images = torch.rand(1, 1, 8, 8)
    assert torch.equal(Chain((own, own))(images, None, drawn(0))[0], 1.0 - (1.0 - images))

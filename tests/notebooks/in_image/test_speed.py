from __future__ import annotations

import pytest
import torch
from defectlab import speed
from defectlab.model import DefectNet
from defectlab.resnet import ResNet50
from torch import nn


def test_resnet_50_is_resnet_50() -> None:
    network = ResNet50()
    # As published: 25.6 million parameters, 4.1 billion multiplications and additions for an image of 224 pixels.
    assert sum(weights.numel() for weights in network.parameters()) == 25_557_032
    assert network.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
    # A step is the forward pass, and the backward pass with twice its operations, less the gradient of the images themselves.
    assert speed.operations(ResNet50, 2, 224) == pytest.approx(3 * 2 * 4.1e9, rel=0.02)


@pytest.mark.parametrize("way", [speed.Way("fp32"), speed.Way("bf16", channels_last=True)], ids=str)
def test_a_way_has_a_speed_and_a_cpu_tells_no_peak(way: speed.Way) -> None:
    found = speed.measure(way, lambda: DefectNet(width=8), batch=2, side=32, device="cpu", steps=2)
    assert found.images_per_second > 0
    assert found.peak_bytes is None
    assert found.kept_bytes > 0
    assert found.way == way


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Conv2d(8, 1, 3, padding=1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(images)).mean(dim=(2, 3))


def test_what_is_kept_for_the_backward_pass_is_counted_to_the_byte() -> None:
    images, between, weights = 4 * 16 * 16, 4 * 8 * 16 * 16, 2 * 8 * 9
    # In fp32 the inputs of both convolutions; in bf16 they take half, and copies of the weights come on top.
    assert speed.kept_bytes(speed.Way("fp32"), TwoLayers, 4, 16, "cpu") == 4 * (images + between)
    assert speed.kept_bytes(speed.Way("bf16"), TwoLayers, 4, 16, "cpu") == 2 * (images + between + weights)


def test_under_a_roof_bytes_count_first_and_operations_then() -> None:
    limits = speed.Limits(flops=100.0, bytes=10.0)
    assert limits.ridge == 10.0
    assert [limits.at(intensity) for intensity in (1.0, 10.0, 1000.0)] == [10.0, 100.0, 100.0]


def test_kernels_lie_where_they_should() -> None:
    found = {(kernel.name, kernel.precision): kernel for kernel in speed.kernels("cpu", small=True)}
    assert all(kernel.flops > 0 for kernel in found.values())
    # An addition reads two numbers and writes one: a twelfth of an operation per byte in fp32, a sixth in bf16.
    assert found["addition", "fp32"].intensity == pytest.approx(1 / 12)
    assert found["addition", "bf16"].intensity == pytest.approx(1 / 6)
    for precision in ("fp32", "bf16"):
        order = ["addition", "depthwise convolution", "matrix product"]
        values = [found[name, precision].intensity for name in order]
        assert values == sorted(values)


def test_limits_are_measured() -> None:
    limits = speed.limits("fp32", "cpu", small=True)
    assert limits.flops > 1e8
    assert limits.bytes > 1e7

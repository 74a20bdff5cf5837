"""A small network that says whether there is a defect, and where.

Owns the architecture. Never trains and never sees a file.

The network looks at an image through a window that slides in steps of eight pixels, and gives each place a score: the *map*.
The image's score is the mean of its few highest places, because a part is as bad as its worst spot. So the network is
trained by the masks where there are any, by the labels alone where there are none, and always shows what it saw.
"""

from __future__ import annotations

from torch import Tensor, nn

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
        scores = maps.flatten(1).topk(self.worst, dim=1).values.mean(dim=1)
        return scores, maps


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _normalised(images: Tensor) -> Tensor:
    """Each image with mean 0 and deviation 1: the lamp's brightness is no defect."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    deviation = images.std(dim=(2, 3), keepdim=True)
    return (images - mean) / (deviation + 0.02)

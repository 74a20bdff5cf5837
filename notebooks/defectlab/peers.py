"""The same question asked of another library, where that is installed.

Owns the comparison of `anomaly` with anomalib's PatchCore on the same images and the same features. Never installs or downloads
anything, and never trains: anomalib gets our network in the place of its own, whose weights it would fetch.

ref: https://github.com/open-edge-platform/anomalib (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defectlab import anomaly, backbone
from defectlab.data import DataSet

# Names that its network would give to its layers; ours stand in for them.
_LAYERS = ("layer2", "layer3")


class PeerError(Exception):
    """The other library is not there; one sentence for a person, with what to do."""


def has_anomalib() -> bool:
    """Whether anomalib is installed."""
    return importlib.util.find_spec("anomalib") is not None


class _Features(nn.Module):
    """Our stages under its names."""

    def __init__(self, network: backbone.Lite0, settings: anomaly.Settings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.network(anomaly.prepared(images, self.settings))
        return dict(zip(_LAYERS, (maps[stage].contiguous() for stage in self.settings.stages), strict=True))


def anomalib_scores(good: DataSet, judged: DataSet, settings: anomaly.Settings | None = None) -> NDArray[np.float32]:
    """What anomalib's PatchCore says of images after good ones, on two stages of our network; a high score is unusual.

    Args:
        good: images without a defect.
        judged: images to score.
        settings: image size, two stages, and the size of the memory; the rest is as anomalib has it.

    Raises:
        PeerError: anomalib is not installed.
        ValueError: the settings do not have two stages.
    """
    settings = settings or replace(anomaly.Settings(), stages=(3, 4))
    if len(settings.stages) != len(_LAYERS):
        raise ValueError(f"anomalib lays two stages upon each other here; these are {len(settings.stages)}.")
    if not has_anomalib():
        raise PeerError("anomalib is not installed here: pip install anomalib, beside a PyTorch that torchvision fits.")
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=list(_LAYERS), backbone="resnet18", pre_trained=False)
    model.feature_extractor = _Features(backbone.pretrained(max(settings.stages) + 1), settings).eval()
    model.train()
    model.feature_extractor.eval()
    places = 0
    for images in anomaly.batches(good):
        places += len(model(images))
    model.subsample_embedding(min(1.0, settings.bank / places))
    model.eval()
    with torch.inference_mode():
        return np.concatenate([model(images).pred_score.flatten().float().numpy() for images in anomaly.batches(judged)])

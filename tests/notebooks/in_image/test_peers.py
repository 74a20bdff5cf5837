"""anomalib is not in the lab image: what stands in for it here has the part of its PatchCore that is called, and no more."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from defectlab import anomaly, data, peers
from torch import Tensor, nn

QUICK = anomaly.Settings(size=96, stages=(1, 2), bank=60)


class Model(nn.Module):
    """In training, embeddings out and kept; afterwards, the distance of the worst place."""

    def __init__(self, layers: list[str], backbone: str, pre_trained: bool) -> None:
        super().__init__()
        assert not pre_trained, "its own weights would come from the network"
        self.layers = layers
        self.feature_extractor: nn.Module = nn.Identity()
        self.register_buffer("memory_bank", torch.empty(0))
        self.store: list[Tensor] = []

    def forward(self, images: Tensor) -> Any:
        found = self.feature_extractor(images)[self.layers[0]]
        assert not self.feature_extractor.training
        rows = found.permute(0, 2, 3, 1).reshape(-1, found.shape[1])
        if self.training:
            self.store.append(rows)
            return rows
        away = torch.cdist(rows, self.memory_bank).min(dim=1).values.reshape(len(images), -1)
        return types.SimpleNamespace(pred_score=away.max(dim=1).values)

    def subsample_embedding(self, ratio: float) -> None:
        rows = torch.vstack(self.store)
        self.memory_bank = rows[: round(ratio * len(rows))]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ["anomalib", "models", "image", "patchcore", "torch_model"]
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
    monkeypatch.setattr(sys.modules[".".join(parts)], "PatchcoreModel", Model, raising=False)
    monkeypatch.setattr(peers, "has_anomalib", lambda: True)


@pytest.mark.usefixtures("installed")
def test_it_scores_with_our_network_and_a_memory_of_the_size_asked_for(tiny: data.DataSet) -> None:
    good = tiny.take(np.flatnonzero(~tiny.labels))
    scores = peers.anomalib_scores(good, tiny, QUICK)
    assert scores.shape == (len(tiny),)
    assert np.isfinite(scores).all()


@pytest.mark.usefixtures("installed")
def test_other_than_two_stages_are_refused(tiny: data.DataSet) -> None:
    with pytest.raises(ValueError, match="two stages"):
        peers.anomalib_scores(tiny, tiny, anomaly.Settings(stages=(2,)))


def test_without_it_one_sentence_says_so(tiny: data.DataSet) -> None:
    assert not peers.has_anomalib()
    with pytest.raises(peers.PeerError, match="anomalib is not installed here: pip install anomalib"):
        peers.anomalib_scores(tiny, tiny, QUICK)

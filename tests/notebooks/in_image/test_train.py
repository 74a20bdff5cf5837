from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from defectlab import data, train
from defectlab.model import STRIDE, DefectNet, parameters

SHORT = train.Settings(epochs=3, batch=16)


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="module")
def parts(tiny: data.DataSet) -> data.Split:
    return data.split(tiny)


def trained(parts: data.Split, settings: train.Settings = SHORT) -> tuple[DefectNet, train.History]:
    train.seed_everything(settings.seed)
    model = DefectNet(width=8)
    return model, train.fit(model, parts.train, parts.validation, settings, progress=False)


def test_the_map_has_a_score_for_every_eight_pixels() -> None:
    scores, maps = DefectNet(width=8)(torch.rand(5, 1, 96, 64))
    assert scores.shape == (5,)
    assert maps.shape == (5, 96 // STRIDE, 64 // STRIDE)
    assert parameters(DefectNet()) == 104_689


def test_the_score_is_the_mean_of_the_worst_places() -> None:
    scores, maps = DefectNet(width=8, worst=3).eval()(torch.rand(2, 1, 48, 48))
    assert torch.allclose(scores, maps.flatten(1).sort(dim=1).values[:, -3:].mean(dim=1))


def test_brightness_is_no_defect() -> None:
    torch.manual_seed(0)
    model, images = DefectNet(width=8).eval(), torch.rand(2, 1, 48, 48)
    assert torch.allclose(model(images)[0], model(images + 0.2)[0], atol=1e-4)


def test_loss_falls_and_the_best_epoch_is_kept(parts: data.Split) -> None:
    model, history = trained(parts, dataclasses.replace(SHORT, epochs=8))
    assert min(history.train_loss) < 0.8 * history.train_loss[0]
    assert history.validation_loss[history.best] == min(history.validation_loss)
    kept = train._validate(model, train._tensors(parts.validation, "cpu"), SHORT)
    assert kept == pytest.approx(min(history.validation_loss), rel=1e-5)


def test_same_seed_same_weights_and_another_seed_others(parts: data.Split) -> None:
    weights = [
        torch.cat([w.flatten() for w in trained(parts, dataclasses.replace(SHORT, seed=seed))[0].parameters()])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_stops_when_it_gets_no_better(parts: data.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.1])
    monkeypatch.setattr(train, "_validate", lambda *_: next(losses))
    _, history = trained(parts, train.Settings(epochs=30, batch=64, patience=2))
    assert history.validation_loss == [3.0, 2.0, 2.5, 1.0, 1.5, 1.2]
    assert history.best == 3


def test_it_learns_from_labels_alone_where_there_are_no_masks(parts: data.Split) -> None:
    blind = data.Split(*(dataclasses.replace(part, masks=None) for part in (parts.train, parts.validation, parts.test)))
    _, history = trained(blind)
    assert all(np.isfinite(history.train_loss + history.validation_loss))


def test_masks_turn_along_with_their_images() -> None:
    torch.manual_seed(3)
    masks = (torch.rand(32, 1, 16, 16) > 0.8).float()
    images, turned = train._varied(masks, masks)
    assert turned is not None
    assert not torch.equal(turned, masks)
    # Light and noise change an image by less than the half that lies between black and white.
    assert torch.equal(images > 0.5, turned > 0.5)


def test_scores_are_probabilities_of_every_image_in_order(parts: data.Split) -> None:
    model = DefectNet(width=8)
    scores, maps = train.scores(model, parts.train)
    assert scores.shape == (len(parts.train),)
    assert maps.shape == (len(parts.train), 12, 12)
    assert ((scores >= 0) & (scores <= 1)).all()
    alone, _ = train.scores(model, parts.train.take([7]))
    assert alone[0] == pytest.approx(scores[7], abs=1e-5)

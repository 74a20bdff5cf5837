from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from defectlab import data, train
from defectlab.checkpoint import CheckpointError
from defectlab.model import STRIDE, DefectNet, FourSides, LiteDefectNet, build, parameter_groups, parameters

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


def test_scores_are_probabilities_of_every_image_in_order(parts: data.Split) -> None:
    model = DefectNet(width=8)
    scores, maps = train.scores(model, parts.train)
    assert scores.shape == (len(parts.train),)
    assert maps.shape == (len(parts.train), 12, 12)
    assert ((scores >= 0) & (scores <= 1)).all()
    alone, _ = train.scores(model, parts.train.take([7]))
    assert alone[0] == pytest.approx(scores[7], abs=1e-5)


# --- the network that starts from ImageNet


def test_the_lite_network_keeps_the_contract_and_comes_from_its_recipe() -> None:
    model = LiteDefectNet().eval()
    with torch.inference_mode():
        scores, maps = model(torch.rand(3, 1, 96, 64))
    assert scores.shape == (3,)
    assert maps.shape == (3, 96 // STRIDE, 64 // STRIDE)
    assert type(build(model.recipe)) is LiteDefectNet
    assert type(build(DefectNet(width=8).recipe)) is DefectNet
    with pytest.raises(ValueError, match="no network 'Other'"):
        build({"class": "Other"})


def test_four_sides_are_the_mean_and_turn_with_the_image() -> None:
    torch.manual_seed(0)
    network, images = DefectNet(width=8).eval(), torch.rand(2, 1, 64, 64)
    around = FourSides(network)
    with torch.inference_mode():
        scores, maps = around(images)
        expected = torch.stack([network(torch.rot90(images, turn, (2, 3)))[0] for turn in range(4)]).mean(dim=0)
        turned_scores, turned_maps = around(torch.rot90(images, 1, (2, 3)))
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.allclose(turned_scores, scores, atol=1e-5)
    assert torch.allclose(turned_maps, torch.rot90(maps, 1, (1, 2)), atol=1e-5)


def test_what_was_learnt_elsewhere_moves_more_slowly_and_nothing_is_left_out() -> None:
    model = LiteDefectNet()
    groups = parameter_groups(model, rate=1e-2)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    rates = {id(weights): group["lr"] for group in groups for weights in group["params"]}
    assert rates[id(model.head.weight)] == 1e-2 > rates[id(model.trunk.stem[0].weight)] > 0
    decays = {id(weights): group.get("weight_decay") for group in groups for weights in group["params"]}
    assert decays[id(model.head.bias)] == 0.0
    assert decays[id(model.head.weight)] is None


def test_fine_tuning_learns(parts: data.Split) -> None:
    train.seed_everything(0)
    history = train.fit(LiteDefectNet(), parts.train, parts.validation, train.Settings(epochs=3, rate=3e-3), progress=False)
    assert history.train_loss[-1] < 0.8 * history.train_loss[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_learns_in_sixteen_bits_too(parts: data.Split, precision: str) -> None:
    _, history = trained(parts, dataclasses.replace(SHORT, epochs=2, precision=precision))
    _, reference = trained(parts, dataclasses.replace(SHORT, epochs=2))
    assert history.train_loss == pytest.approx(reference.train_loss, rel=0.1)


# --- cut off and taken up


class Killed(Exception):
    pass


def cut_off(parts: data.Split, settings: train.Settings, checkpoint: Path, step: int) -> None:
    def watch(progress: train.Progress) -> None:
        if progress.step == step:
            raise Killed

    train.seed_everything(settings.seed)
    with pytest.raises(Killed):
        train.fit(DefectNet(width=8), parts.train, parts.validation, settings, progress=False, checkpoint=checkpoint, watch=watch)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(parts: data.Split, tmp_path: Path, precision: str) -> None:
    settings = dataclasses.replace(SHORT, epochs=2 if precision == "fp16" else 3, variation="strong", precision=precision)
    whole, expected = trained(parts, settings)
    file = tmp_path / "runs" / "checkpoint"
    steps = -(-len(parts.train) // settings.batch)
    cut_off(parts, settings, file, steps + 2)
    # Other first weights and other random numbers around it: everything comes from the file.
    train.seed_everything(99)
    model = DefectNet(width=8)
    history = train.fit(model, parts.train, parts.validation, settings, progress=False, checkpoint=file)
    assert (history.train_loss, history.validation_loss, history.best) == (
        expected.train_loss, expected.validation_loss, expected.best,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True))
    assert not file.exists(), "a training that is over leaves no checkpoint"


def test_another_training_is_never_continued(parts: data.Split, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    cut_off(parts, SHORT, file, -(-len(parts.train) // SHORT.batch) + 1)
    before = file.read_bytes()
    other = dataclasses.replace(SHORT, rate=1e-3)
    with pytest.raises(CheckpointError, match="other settings or other data"):
        train.fit(DefectNet(width=8), parts.train, parts.validation, other, progress=False, checkpoint=file)
    with pytest.raises(CheckpointError, match="other settings or other data"):
        train.fit(DefectNet(width=8), parts.validation, parts.train, SHORT, progress=False, checkpoint=file)
    assert file.read_bytes() == before


def test_a_damaged_checkpoint_is_one_sentence(parts: data.Split, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    file.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"is damaged .* remove it, and the training begins anew"):
        train.fit(DefectNet(width=8), parts.train, parts.validation, SHORT, progress=False, checkpoint=file)


def test_a_watcher_is_told_of_every_step(parts: data.Split) -> None:
    seen: list[train.Progress] = []
    train.fit(DefectNet(width=8), parts.train, parts.validation, SHORT, progress=False, watch=seen.append)
    steps = -(-len(parts.train) // SHORT.batch)
    assert [told.step for told in seen] == list(range(1, 3 * steps + 1))
    assert {told.steps for told in seen} == {3 * steps}
    assert [told.epoch for told in seen] == [1 + i // steps for i in range(3 * steps)]
    assert seen[0].validation_loss is None
    assert seen[-1].validation_loss is not None

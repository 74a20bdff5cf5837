from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from defectlab import backbone, data, features, metrics
from defectlab.features import Recipe

QUICK = Recipe(size=64, stages=(1, 2))


@pytest.fixture(scope="module")
def some(tiny: data.DataSet) -> data.DataSet:
    return tiny.take(range(0, len(tiny), 2))


def test_every_image_becomes_a_row_whatever_the_batch(some: data.DataSet) -> None:
    rows = features.extract(some, QUICK, progress=False)
    assert rows.shape == (len(some), QUICK.length) == (len(some), 3 * (24 + 40))
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert np.allclose(features.extract(some.take([5]), QUICK, progress=False)[0], rows[5], atol=1e-4)


def test_features_are_kept_and_never_mixed_up(some: data.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = features.extract(some, QUICK, cache=tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "pretrained", lambda *_: pytest.fail("it was computed again"))
        assert np.array_equal(features.extract(some, QUICK, cache=tmp_path, progress=False), rows)
    other = features.extract(some, dataclasses.replace(QUICK, size=48), cache=tmp_path, progress=False)
    turned = dataclasses.replace(some, images=some.images[::-1].copy())
    assert not np.array_equal(other, rows)
    assert not np.array_equal(features.extract(turned, QUICK, cache=tmp_path, progress=False), rows)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_damaged_cache_costs_time_and_nothing_else(some: data.DataSet, tmp_path: Path, harm: str) -> None:
    rows = features.extract(some, QUICK, cache=tmp_path, progress=False)
    kept = next(tmp_path.iterdir())
    if harm == "cut":
        kept.write_bytes(kept.read_bytes()[:100])
    else:
        np.save(kept, np.zeros(3))
    assert np.array_equal(features.extract(some, QUICK, cache=tmp_path, progress=False), rows)
    assert np.load(kept).shape == rows.shape


def test_a_cache_that_cannot_be_written_is_no_error(some: data.DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(features.extract(some, QUICK, cache=tmp_path / "file", progress=False)) == len(some)


def test_a_larger_size_keeps_the_picture() -> None:
    at = torch.linspace(0.0, 6.0, 32)
    images = (0.5 + 0.4 * at.sin()[:, None] * at.cos()).expand(2, 1, -1, -1)
    assert features.sized(images, 32) is images
    small = features.sized(features.sized(images, 64), 32)
    assert small.shape == images.shape
    assert float((small - images).abs().max()) < 0.05


def separable(some: data.DataSet, signal: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(some), 20)).astype(np.float32)
    rows[:, 3] += signal * some.labels
    return rows


def test_it_finds_what_there_is(some: data.DataSet) -> None:
    rows = separable(some, signal=6.0)
    model = features.fit(rows, some)
    assert metrics.auroc(some.labels, model.scores(rows)) > 0.99
    assert model.tried[model.strength] == max(model.tried.values()) > 0.98
    assert ((model.scores(rows) >= 0) & (model.scores(rows) <= 1)).all()


def test_it_does_not_learn_groups_by_heart(some: data.DataSet) -> None:
    """Features that only tell the group are worth nothing on other groups, and the choice must see that."""
    labels = np.arange(len(some)) // 2 % 2 == 1
    groups = [f"g{i // 4}" for i in range(len(some))]
    records = tuple(
        dataclasses.replace(record, defective=bool(bad), group=group)
        for record, bad, group in zip(some.records, labels, groups, strict=True)
    )
    which = np.unique(groups, return_inverse=True)[1]
    rows = np.eye(which.max() + 1, dtype=np.float32)[which]
    model = features.fit(rows, dataclasses.replace(some, records=records))
    assert max(model.tried.values()) < 0.6

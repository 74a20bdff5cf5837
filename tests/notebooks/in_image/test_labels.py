from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from defectlab import data, labels
from defectlab.labels import LabelError, LabelFile
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([True, False, None])), max_size=12)


def test_decisions_are_kept_in_order_with_who_and_when(tiny: data.DataSet, tmp_path: Path) -> None:
    kept = LabelFile(tmp_path / "of" / "labels.jsonl", tiny)
    one, other = tiny.records[0].file, tiny.records[1].file
    kept.add(one, True, "ana")
    kept.add(other, False, "bo")
    kept.add(one, False, "bo")
    again = LabelFile(kept.path, tiny)
    assert [(d.file, d.defective, d.by) for d in again.decisions()] == [
        (one, True, "ana"),
        (other, False, "bo"),
        (one, False, "bo"),
    ]
    assert all(d.at.endswith("+00:00") for d in again.decisions())
    assert again.labels() == {one: False, other: False}
    assert again.labels(version=2) == {one: True, other: False}
    assert again.version == 3


@given(steps=STEPS)
def test_the_last_word_counts_and_every_version_is_still_there(
    tiny: data.DataSet, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool | None]]
) -> None:
    kept = LabelFile(tmp_path_factory.mktemp("labels") / "l", tiny)
    expected: list[dict[str, bool]] = [{}]
    lines = [b""]
    for at, said in steps:
        file = tiny.records[at].file
        kept.add(file, said, "ana")
        now = {name: value for name, value in expected[-1].items() if name != file}
        expected.append(now if said is None else {**now, file: said})
        lines.append(kept.path.read_bytes())
    assert [kept.labels(version) for version in range(len(steps) + 1)] == expected
    assert all(after.startswith(before) for before, after in itertools.pairwise(lines)), "a line was changed"
    for version, found in enumerate(expected):
        told = kept.apply(tiny, version)
        assert [record.defective for record in told.records] == [found.get(r.file, r.defective) for r in tiny.records]


@given(cut=st.integers(1, 60))
def test_a_line_that_was_cut_off_costs_that_decision_and_no_other(
    tiny: data.DataSet, tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    kept = LabelFile(tmp_path_factory.mktemp("labels") / "l", tiny)
    for record in tiny.records[:3]:
        kept.add(record.file, True, "ana")
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole[:-cut])
    assert kept.version == (3 if cut == 1 else 2), "the end of a line alone is no loss"
    kept.add(tiny.records[3].file, False, "bo")
    assert [d.by for d in kept.decisions()] == ["ana"] * (3 if cut == 1 else 2) + ["bo"]


def test_labels_of_other_images_are_refused(tiny: data.DataSet, tmp_path: Path) -> None:
    kept = LabelFile(tmp_path / "l", tiny)
    kept.add(tiny.records[0].file, True, "ana")
    with pytest.raises(LabelError, match="choose another file"):
        LabelFile(tmp_path / "l", labels.relabelled(tiny, {tiny.records[0].file: not tiny.records[0].defective}))
    with pytest.raises(LabelError, match="There is no image 'x'"):
        kept.add("x", True, "ana")
    (tmp_path / "other").write_text("notes\n")
    with pytest.raises(LabelError, match="choose another file"):
        LabelFile(tmp_path / "other", tiny)


def test_a_disk_that_is_full_is_one_sentence(tiny: data.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    kept = LabelFile(tmp_path / "l", tiny)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabelError, match="is full, so the label was not written"):
        kept.add(tiny.records[0].file, True, "ana")


def test_a_line_by_another_program_is_no_decision(tiny: data.DataSet, tmp_path: Path) -> None:
    kept = LabelFile(tmp_path / "l", tiny)
    kept.add(tiny.records[0].file, True, "ana")
    with kept.path.open("a") as file:
        file.write('[]\n{"file": 1}\n' + json.dumps({"file": "x", "defective": 3, "by": "x", "at": ""}) + "\n")
    assert kept.version == 1


def test_a_changed_label_leaves_no_mask_and_another_digest(tiny: data.DataSet) -> None:
    assert tiny.masks is not None
    bad, good = int(np.flatnonzero(tiny.labels)[0]), int(np.flatnonzero(~tiny.labels)[0])
    before = tiny.masks.copy()
    found = labels.relabelled(tiny, {tiny.records[bad].file: False, tiny.records[good].file: True})
    assert found.masks is not None
    assert not found.masks[bad].any()
    assert (found.records[bad].kind, found.records[good].kind) == ("good", labels.UNNAMED)
    assert not found.records[good].has_mask
    assert found.digest != tiny.digest
    assert (tiny.masks == before).all(), "the original was changed"
    assert labels.relabelled(tiny, labels.truth_of(tiny)) is tiny


@given(share=st.floats(0.0, 0.4), overlooked=st.floats(0.0, 1.0), seed=st.integers(0, 5))
def test_a_hurry_spoils_as_many_labels_as_was_asked_and_tells_which(
    tiny: data.DataSet, share: float, overlooked: float, seed: int
) -> None:
    noisy, wrong = labels.hurried(tiny, share, seed=seed, overlooked=overlooked)
    assert wrong.sum() == round(share * len(tiny))
    assert ((noisy.labels != tiny.labels) == wrong).all()
    assert (wrong & tiny.labels).sum() == round(overlooked * wrong.sum())
    again, same = labels.hurried(tiny, share, seed=seed, overlooked=overlooked)
    assert (same == wrong).all()
    assert again.digest == noisy.digest
    assert np.shares_memory(noisy.images, tiny.images) or (noisy.images == tiny.images).all()


def test_small_defects_are_overlooked_sooner(tiny: data.DataSet) -> None:
    assert tiny.masks is not None
    areas = tiny.masks.sum(axis=(1, 2))
    missed = np.concatenate([areas[labels.hurried(tiny, 0.1, seed=seed)[1] & tiny.labels] for seed in range(30)])
    assert missed.mean() < 0.7 * areas[tiny.labels].mean()


@given(errs=st.floats(0.0, 1.0), seed=st.integers(0, 3))
def test_a_reviewer_says_the_same_twice_and_errs_as_often_as_told(errs: float, seed: int) -> None:
    truth = {f"{i}.png": i % 2 == 0 for i in range(400)}
    who = labels.SimulatedReviewer(truth, errs, seed)
    said = {file: who.says(file) for file in truth}
    assert said == {file: who.says(file) for file in reversed(truth)}
    wrong = sum(said[file] != truth[file] for file in truth)
    assert abs(wrong / 400 - errs) < 0.13

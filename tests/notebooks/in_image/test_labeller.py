from __future__ import annotations

import os
from pathlib import Path

import pytest
from defectlab import data
from defectlab.labeller import Labeller
from defectlab.labels import LabelFile
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def kept(tiny: data.DataSet, tmp_path: Path) -> LabelFile:
    return LabelFile(tmp_path / "labels.jsonl", tiny)


def test_keys_label_one_image_after_the_other(tiny: data.DataSet, kept: LabelFile) -> None:
    part = Labeller(tiny, [3, 1, 2, 0], kept, by="ana")
    assert f"Image 1 of 4: {tiny.records[3].file}" in part._picture.value
    part._keys.value = "g"
    assert f"Image 2 of 4: {tiny.records[1].file}" in part._picture.value
    # Somebody fast: three keys arrive in one message.
    part._keys.value = "gds?"
    assert part._keys.value == "gds"
    assert kept.labels() == {tiny.records[3].file: False, tiny.records[1].file: True}
    assert [d.by for d in kept.decisions()] == ["ana", "ana"]
    assert "3 of 4 looked at, 2 labelled" in part._told.value


def test_backspace_takes_back_and_leaves_a_trace(tiny: data.DataSet, kept: LabelFile) -> None:
    part = Labeller(tiny, [0, 1], kept, by="ana")
    part._keys.value = "dd"
    part._keys.value = "d"
    assert "taken back" in part._told.value
    assert kept.labels() == {tiny.records[0].file: True}
    assert [d.defective for d in kept.decisions()] == [True, True, None]
    part._buttons[3].click()
    assert kept.labels() == {}
    assert part._buttons[3].disabled


def test_buttons_do_what_keys_do(tiny: data.DataSet, kept: LabelFile) -> None:
    part = Labeller(tiny, [0, 1, 2], kept, by="ana")
    for button in part._buttons[:3]:
        button.click()
    assert part._keys.value == "gds"
    assert kept.labels() == {tiny.records[0].file: False, tiny.records[1].file: True}
    assert part.left == 0
    assert "no image left" in part._picture.value
    assert all(button.disabled for button in part._buttons[:3])


def test_it_shows_no_label_before_the_person_has_spoken(tiny: data.DataSet, kept: LabelFile) -> None:
    defective = next(i for i, record in enumerate(tiny.records) if record.defective)
    part = Labeller(tiny, [defective, 0], kept, by="ana")
    shown = part._picture.value + part._told.value
    assert tiny.records[defective].kind not in shown
    part._keys.value = "g"
    assert "you said good, its label said defective" in part._told.value
    assert "1 labels changed" in part._told.value


def test_run_again_it_goes_on_where_one_was(tiny: data.DataSet, kept: LabelFile) -> None:
    Labeller(tiny, [0, 1, 2], kept, by="ana")._keys.value = "gsd"
    again = Labeller(tiny, [0, 1, 2], kept, by="ana")
    assert f"Image 1 of 1: {tiny.records[1].file}" in again._picture.value


def test_a_full_disk_is_told_and_the_image_stays(tiny: data.DataSet, kept: LabelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Labeller(tiny, [0, 1], kept, by="ana")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    part._keys.value = "d"
    assert "is full, so the label was not written" in part._told.value
    assert part._keys.value == ""
    assert "Image 1 of 2" in part._picture.value


@given(typed=st.lists(st.text("gds x", max_size=8), max_size=6))
def test_whatever_is_typed_the_file_says_what_the_field_says(
    tiny: data.DataSet, tmp_path_factory: pytest.TempPathFactory, typed: list[str]
) -> None:
    kept = LabelFile(tmp_path_factory.mktemp("labels") / "l", tiny)
    part = Labeller(tiny, range(5), kept, by="ana")
    for text in typed:
        part._keys.value = text
        wanted = [key for key in text if key in "gds"][:5]
        assert part._keys.value == "".join(wanted)
        says = {"g": False, "d": True}
        assert kept.labels() == {tiny.records[i].file: says[key] for i, key in enumerate(wanted) if key in says}

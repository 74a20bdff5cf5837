from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from defectlab import data, textures
from defectlab.folders import DataError
from hypothesis import given, settings
from hypothesis import strategies as st


def data_of(records: list[data.Record]) -> data.DataSet:
    """A data set of images of one pixel."""
    return data.DataSet("made", "made", "CC0-1.0", "", "", np.zeros((len(records), 1, 1), np.uint8), None, tuple(records))


def planned(recipe: textures.Recipe) -> data.DataSet:
    return data_of(
        [
            data.Record(str(p.number), p.kind != "good", p.kind, p.group, p.source, (p.x, p.y, textures.SIZE))
            for p in textures.plan(recipe)
        ]
    )


def painted(part: data.DataSet, source: str) -> np.ndarray:
    """The pixels of the photograph that a part shows."""
    canvas = np.zeros((512, 512), dtype=bool)
    for record in part.records:
        if record.source == source and record.box:
            x, y, size = record.box
            canvas[y : y + size, x : x + size] = True
    return canvas


@given(seed=st.integers(0, 2**32), split_seed=st.integers(0, 2**32), per_tile=st.integers(1, 6))
@settings(max_examples=25)
def test_no_pixel_of_a_photograph_is_in_two_parts(seed: int, split_seed: int, per_tile: int) -> None:
    whole = planned(textures.Recipe(seed=seed, per_tile=per_tile))
    parts = data.split(whole, seed=split_seed)
    for source in textures.PHOTOGRAPHS:
        seen = sum(painted(part, source).astype(int) for part in (parts.train, parts.validation, parts.test))
        assert seen.max() == 1
    assert data.leaks(parts) == []


@st.composite
def grouped(draw: st.DrawFn) -> data.DataSet:
    records = []
    for source in range(draw(st.integers(1, 4))):
        for group in range(draw(st.integers(3, 12))):
            for image in range(draw(st.integers(1, 4))):
                name = f"{source}-{group}"
                records.append(data.Record(f"{name}-{image}", draw(st.booleans()), "x", name, str(source)))
    return data_of(draw(st.permutations(records)))


@given(whole=grouped(), seed=st.integers(0, 100))
def test_a_split_shares_no_group_and_loses_no_image(whole: data.DataSet, seed: int) -> None:
    parts = data.split(whole, seed=seed)
    three = (parts.train, parts.validation, parts.test)
    groups = [{record.group for record in part.records} for part in three]
    assert all(not one & other for n, one in enumerate(groups) for other in groups[n + 1 :])
    assert Counter(r.file for part in three for r in part.records) == Counter(r.file for r in whole.records)
    for part in three:
        assert {record.source for record in part.records} == {record.source for record in whole.records}


def test_same_seed_same_split_and_another_seed_another() -> None:
    whole = planned(textures.Recipe(per_tile=1))
    files = [[r.file for r in data.split(whole, seed=seed).test.records] for seed in (3, 3, 4)]
    assert files[0] == files[1] != files[2]


def test_default_split_is_ten_two_four_tiles_of_each_texture() -> None:
    parts = data.split(planned(textures.Recipe()))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [1800, 360, 720]
    assert Counter(r.group.split("-")[0] for r in parts.test.records) == dict.fromkeys(textures.PHOTOGRAPHS, 240)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match="Of 'a' there are 2 groups, too few"):
        data.split(data_of([data.Record(str(n), False, "good", f"g{n}", "a") for n in range(2)]))


def test_groups_that_share_pixels_are_refused() -> None:
    records = [data.Record(str(n), False, "good", f"g{n}", "a", (10 * n, 0, 96)) for n in range(8)]
    with pytest.raises(DataError, match="share pixels, so no split of it is honest"):
        data.split(data_of(records))


boxes = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8))


@given(one=boxes, other=boxes)
def test_overlap_is_what_painting_says(one: data.Box, other: data.Box) -> None:
    canvas = np.zeros((24, 24), dtype=int)
    for x, y, size in (one, other):
        canvas[y : y + size, x : x + size] += 1
    assert data.overlap(one, other) == (canvas.max() == 2) == data.overlap(other, one)


def test_load_gives_images_with_what_is_known_about_them(tiny: data.DataSet) -> None:
    assert tiny.images.shape == (192, 96, 96)
    assert tiny.images.dtype == np.uint8
    assert tiny.masks is not None
    assert (tiny.masks.any(axis=(1, 2)) == tiny.labels).all()
    assert tiny.labels.sum() == 96
    assert (tiny.licence, len(tiny.digest)) == ("CC0-1.0", 64)
    assert str(tiny) == "192 images of 96 × 96: 96 good, 96 defective, from 48 groups"
    first = tiny.take([5, 3])
    assert [record.file for record in first.records] == [tiny.records[5].file, tiny.records[3].file]
    assert (first.images[1] == tiny.images[3]).all()


def test_load_resizes_images_and_masks_alike(tiny_folder: Path) -> None:
    small = data.load(tiny_folder, size=48, progress=False)
    assert small.images.shape == (192, 48, 48)
    assert small.masks is not None
    assert small.masks.shape == (192, 48, 48)


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "textures"))


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="your admin installs one with `gpulab data get`"):
        data.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("dataset.json", "{", "cannot be read"),
        ("dataset.json", json.dumps({"format": 99}), "not a data set of format 1"),
        ("records.csv", "file,mask\na,b\n", "has no column 'defective'"),
        ("records.csv", "", "has no column 'file'"),
    ],
)
def test_a_damaged_data_set_is_one_sentence(copy: Path, name: str, text: str, sentence: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        data.load(copy, progress=False)


def test_a_damaged_image_is_named(copy: Path) -> None:
    victim = sorted((copy / "images").iterdir())[7]
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(DataError, match=victim.name):
        data.load(copy, progress=False)


def test_joined_sets_are_one_after_the_other(tiny: data.DataSet) -> None:
    one, other = tiny.take(range(10)), tiny.take(range(10, 30))
    both = data.join(one, other)
    assert np.array_equal(both.images, tiny.images[:30])
    assert both.masks is not None
    assert tiny.masks is not None
    assert np.array_equal(both.masks, tiny.masks[:30])
    assert both.records == tiny.records[:30]
    assert both.digest not in (one.digest, data.join(other, other, one).digest)


def test_what_does_not_fit_is_not_joined(tiny: data.DataSet) -> None:
    small = dataclasses.replace(tiny, images=tiny.images[:, :48, :48])
    blind = dataclasses.replace(tiny, masks=None)
    for other in (small, blind):
        with pytest.raises(DataError, match="of one size"):
            data.join(tiny, other)

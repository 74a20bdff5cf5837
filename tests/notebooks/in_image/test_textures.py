from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from defectlab import data, defects, folders, metrics, textures
from defectlab.folders import DataError
from scipy import ndimage

# Of the pixels and not of the files: another zlib may pack the same pixels into other bytes.
GOLDEN = "2e7e78be1dce6114e817208c38150835b75c5d6735f55bb107ca5627bddc6c93"


def pixels(folder: Path) -> str:
    loaded = data.load(folder, progress=False)
    assert loaded.masks is not None
    return hashlib.sha256(loaded.images.tobytes() + loaded.masks.tobytes()).hexdigest()


def test_the_recipe_gives_the_pixels_it_always_gave(tiny_folder: Path) -> None:
    assert pixels(tiny_folder) == GOLDEN, "other pixels need another textures.VERSION, so that old data sets get replaced"


def test_same_recipe_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    again, _ = textures.write(tmp_path, TINY, progress=False)
    assert (again / "SHA256SUMS").read_text() == (tiny_folder / "SHA256SUMS").read_text()
    assert folders.digest(again) == folders.digest(tiny_folder)


def test_another_seed_gives_other_images(tiny_folder: Path, tmp_path: Path) -> None:
    other, _ = textures.write(tmp_path, textures.Recipe(per_tile=4, seed=1), progress=False)
    assert folders.digest(other) != folders.digest(tiny_folder)


def test_what_lies_there_is_what_the_list_says(tiny_folder: Path) -> None:
    assert folders.problems(tiny_folder) == []
    about = folders.describe(tiny_folder)
    assert (about["name"], about["licence"], about["images"]) == ("textures", "CC0-1.0", 48 * 4)
    assert about["recipe"] == {"seed": 0, "difficulty": "default", "per_tile": 4, "defective": 0.5, "version": textures.VERSION}
    assert "2 to 3.5 standard deviations" in about["difficulty"]
    with (tiny_folder / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 * 4
    for row in rows:
        assert (row["kind"] == "good") == (row["defective"] == "0") == (row["mask"] == "")
        assert (tiny_folder / row["file"]).is_file()
        assert not row["mask"] or (tiny_folder / row["mask"]).is_file()


def test_default_data_set_has_every_kind_equally_often() -> None:
    pieces = list(textures.plan(textures.Recipe()))
    assert len(pieces) == 2880
    for source in textures.PHOTOGRAPHS:
        kinds = [piece.kind for piece in pieces if piece.source == source]
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {"good": 480} | dict.fromkeys(defects.KINDS, 80)


def test_every_piece_lies_within_its_tile() -> None:
    for piece in textures.plan(textures.Recipe(per_tile=20, seed=7)):
        assert piece.x // textures.TILE == (piece.x + textures.SIZE - 1) // textures.TILE == piece.tile % 4
        assert piece.y // textures.TILE == (piece.y + textures.SIZE - 1) // textures.TILE == piece.tile // 4


@pytest.mark.parametrize("difficulty", list(defects.DIFFICULTIES))
@pytest.mark.parametrize("kind", list(defects.KINDS))
def test_a_defect_is_visible_and_lies_under_its_mask(kind: str, difficulty: str) -> None:
    asked = defects.DIFFICULTIES[difficulty]
    for number, source in enumerate(["brick", "grass", "gravel"] * 4):
        sheet = textures.surface(textures.photograph(source))[:96, :96]
        drawn = defects.draw(sheet, kind, asked, np.random.default_rng(number))
        assert drawn.mask.sum() >= 12
        assert drawn.contrast > 0.3 * asked.contrast[0] if kind != "smear" else drawn.contrast > 0.15
        change = np.abs(drawn.image - sheet)
        assert change[drawn.mask].mean() > 4 * change[~drawn.mask].mean()
        far = ~ndimage.binary_dilation(drawn.mask, iterations=10)
        assert change[far].max(initial=0.0) < 1.0, "something changed far from the mask"


def test_harder_means_less_contrast() -> None:
    sheet = textures.surface(textures.photograph("gravel"))[:96, :96]
    means = [
        np.mean([defects.draw(sheet, "crack", asked, np.random.default_rng(n)).contrast for n in range(12)])
        for asked in defects.DIFFICULTIES.values()
    ]
    assert means == sorted(means, reverse=True)


@pytest.fixture(scope="module")
def default_images(tmp_path_factory: pytest.TempPathFactory) -> data.DataSet:
    folder, _ = textures.write(tmp_path_factory.mktemp("more"), textures.Recipe(per_tile=24), progress=False)
    return data.load(folder, progress=False)


RULES = {
    "nothing": lambda picture: 0.0,
    "mean": np.mean,
    "deviation": np.std,
    "range": np.ptp,
    "laplacian energy": lambda picture: ndimage.laplace(picture).var(),
}


@pytest.mark.parametrize("rule", list(RULES))
def test_default_difficulty_is_not_trivial(default_images: data.DataSet, rule: str) -> None:
    values = np.array([RULES[rule](picture) for picture in default_images.images.astype(float)])
    sources = np.array([record.source for record in default_images.records])
    # Also within one texture, which a rule might be told.
    for chosen in (sources != "", *(sources == source for source in textures.PHOTOGRAPHS)):
        area = metrics.auroc(default_images.labels[chosen], values[chosen])
        assert max(area, 1 - area) < 0.80


# --- more of the same


def test_more_images_come_from_the_same_tiles_and_are_others(tiny: data.DataSet) -> None:
    parts = data.split(tiny)
    extra = textures.more(parts.train, 6, progress=False)
    assert {record.group for record in extra.records} == {record.group for record in parts.train.records}
    assert len(extra) == 6 * len({record.group for record in parts.train.records})
    assert extra.labels.mean() == pytest.approx(0.5)
    assert extra.masks is not None
    assert (extra.masks.any(axis=(1, 2)) == extra.labels).all()
    seen = {image.tobytes() for image in tiny.images}
    assert not any(image.tobytes() in seen for image in extra.images)
    assert not data.leaks(data.Split(data.join(parts.train, extra), parts.validation, parts.test))


def test_more_is_the_same_for_the_same_seed(tiny: data.DataSet) -> None:
    some = data.split(tiny).validation
    one, other, third = (textures.more(some, 2, seed=seed, progress=False) for seed in (1, 1, 2))
    assert (one.images == other.images).all()
    assert one.digest == other.digest != third.digest
    assert (one.images != third.images).any()


def test_more_of_something_else_is_refused(tiny: data.DataSet) -> None:
    stranger = tiny.take([0])
    stranger = dataclasses.replace(stranger, name="elpv", records=(dataclasses.replace(stranger.records[0], group="cell-7"),))
    with pytest.raises(DataError, match="elpv was not cut from these photographs"):
        textures.more(stranger, 2)
    with pytest.raises(DataError, match="choose one of easy"):
        textures.more(tiny, 2, difficulty="nightmare")


# --- written whole or not at all


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "textures"))


def write(copy: Path, recipe: textures.Recipe = TINY) -> bool:
    return textures.write(copy.parent, recipe, progress=False)[1]


def test_a_complete_data_set_is_left_alone(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert not write(copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_a_damaged_data_set_is_made_again(copy: Path, tiny_folder: Path, harm: str) -> None:
    victim = next((copy / "images").iterdir())
    if harm == "change":
        victim.write_bytes(b"no image")
    elif harm == "remove":
        victim.unlink()
    else:
        (copy / "images" / "one_more.png").write_bytes(b"")
    assert write(copy)
    assert folders.digest(copy) == folders.digest(tiny_folder)
    assert folders.problems(copy) == []
    assert [path.name for path in copy.parent.iterdir()] == ["textures"]


def test_what_an_older_recipe_made_is_replaced(copy: Path) -> None:
    text = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(text.replace(f'"version": {textures.VERSION}', '"version": 0'))
    assert write(copy)
    assert folders.describe(copy)["recipe"]["version"] == textures.VERSION


def test_another_recipe_of_the_same_name_is_refused(copy: Path) -> None:
    with pytest.raises(DataError, match="made by another recipe"):
        write(copy, textures.Recipe(per_tile=4, difficulty="hard"))
    assert folders.problems(copy) == []


def test_somebody_elses_folder_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "textures" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(DataError, match="no data set of this lab: move it away"):
        textures.write(tmp_path, TINY, progress=False)
    assert mine.read_text() == "years of work"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(30))

    def interrupted(*_: object) -> None:
        if next(calls) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(textures.PillowImage.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        textures.write(tmp_path, TINY, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_until_the_new_one_is_whole(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next((copy / "images").iterdir()).unlink()
    left = sorted(copy.rglob("*"))
    monkeypatch.setattr(folders, "write_description", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="is full, so textures was not written: free some space"):
        write(copy)
    assert sorted(copy.rglob("*")) == left
    assert [path.name for path in copy.parent.iterdir()] == ["textures"]


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match=f"User {os.getuid()} cannot write to {tmp_path}"):
            textures.write(tmp_path, TINY, progress=False)
    finally:
        tmp_path.chmod(0o700)


def test_another_picture_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(textures.PHOTOGRAPHS, "brick", "0" * 64)
    with pytest.raises(DataError, match="not the one that this recipe was made for"):
        textures.write(tmp_path, TINY, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_unknown_difficulty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of easy, default, hard"):
        textures.write(tmp_path, textures.Recipe(difficulty="nightmare"))

"""Folders of one's own images: what is in order is read, and what is not is named, file by file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from defectlab import data, layouts, scan
from defectlab.__main__ import main
from defectlab.folders import DataError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

VOC = "<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def picture(path: Path, size: tuple[int, int] = (40, 30), grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], grey, dtype=np.uint8)
    pixels[5:9, 5:9] = 255
    Image.fromarray(pixels).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def mvtec(folder: Path) -> Path:
    for number in range(4):
        picture(folder / "train" / "good" / f"{number}.png")
    picture(folder / "test" / "good" / "0.png")
    for number in range(2):
        picture(folder / "test" / "crack" / f"{number}.png")
        picture(folder / "ground_truth" / "crack" / f"{number}_mask.png", grey=0)
    text(folder / "license.txt", "ours")
    return folder


def neu(folder: Path) -> Path:
    for number in range(3):
        name = f"pit_{number}"
        picture(folder / "IMAGES" / f"{name}.jpg")
        objects = OBJECT.format("pit", 2, 2, 20, 30) if number else ""
        text(folder / "ANNOTATIONS" / f"{name}.xml", VOC.format(name=name, width=40, height=30, objects=objects))
    return folder


def yolo(folder: Path) -> Path:
    text(folder / "data.yaml", "names: {0: scratch, 1: pit}\n")
    for number in range(3):
        picture(folder / "images" / "train" / f"{number}.jpg")
    text(folder / "labels" / "train" / "0.txt", "1 0.5 0.5 0.2 0.4\n0 0.5 0.5 1.0 1.0\n")
    text(folder / "labels" / "train" / "1.txt", "")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {"mvtec": mvtec, "neu": neu, "yolo": yolo}


@pytest.mark.parametrize(("layout", "good", "bad"), [("mvtec", 5, 2), ("neu", 1, 2), ("yolo", 2, 1)])
def test_a_good_folder_is_recognised_told_and_read(tmp_path: Path, layout: str, good: int, bad: int) -> None:
    folder = MAKERS[layout](tmp_path / "parts")
    found = layouts.check(folder)
    assert (found.layout, found.count) == (layout, 0)
    assert f"is in order: {good + bad} images, {good} good, {bad} defective" in str(found)
    images = layouts.load(folder, progress=False)
    assert (len(images), int(images.labels.sum())) == (good + bad, bad)
    assert images.images.shape[1:] == (30, 40)
    assert (images.masks is not None) == (layout == "mvtec")
    assert layouts.load(folder, size=16, progress=False).images.shape[1:] == (16, 16)


def test_masks_are_read_with_their_images(tmp_path: Path) -> None:
    images = layouts.load(mvtec(tmp_path / "parts"), progress=False)
    assert images.masks is not None
    assert [int(mask.sum()) for mask in images.masks] == [16 if record.defective else 0 for record in images.records]
    parts = data.split(images)
    assert {len(parts.train), len(parts.validation), len(parts.test)} == {4, 1, 2}


def test_several_products_are_read_at_once(tmp_path: Path) -> None:
    mvtec(tmp_path / "bolt")
    mvtec(tmp_path / "nut")
    assert {item.source for item in layouts.check(tmp_path).items} == {"bolt", "nut"}


def test_boxes_are_in_pixels(tmp_path: Path) -> None:
    (first, *_) = layouts.check(yolo(tmp_path)).items
    assert first.kind == "scratch"
    (pit, scratch) = first.boxes
    assert (pit.kind, pit.left, pit.top, pit.right, pit.bottom) == ("pit", 16, 9, 24, 21)
    assert (scratch.left, scratch.bottom) == (0, 30)


def test_the_digest_follows_the_data_and_not_the_place(tmp_path: Path) -> None:
    one, other = (layouts.load(yolo(tmp_path / name), progress=False).digest for name in ("a", "b"))
    assert one == other
    text(tmp_path / "b" / "labels" / "train" / "1.txt", "0 0.5 0.5 0.1 0.1\n")
    assert layouts.load(tmp_path / "b", progress=False).digest != one


def test_what_has_no_end_is_named_and_not_read(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "parts")
    for name in ("1.txt", "2.txt"):
        (folder / "labels" / "train" / name).unlink(missing_ok=True)
    os.mkfifo(folder / "labels" / "train" / "1.txt")
    (folder / "labels" / "train" / "2.txt").symlink_to("/dev/zero")
    (folder / "images" / "train" / "gone.png").symlink_to("/nowhere")
    found = layouts.check(folder)
    for name in ("labels/train/1.txt", "labels/train/2.txt", "images/train/gone.png"):
        assert f"{name}: is no plain file, or cannot be reached" in found.problems


def spoil(layout: str, folder: Path, how: str) -> None:
    match layout, how:
        case "mvtec", "no mask":
            (folder / "ground_truth" / "crack" / "0_mask.png").unlink()
        case "mvtec", "other size":
            picture(folder / "ground_truth" / "crack" / "0_mask.png", (41, 30))
        case "mvtec", "empty":
            Image.new("L", (40, 30)).save(folder / "ground_truth" / "crack" / "0_mask.png")
        case "mvtec", "ones":
            Image.new("L", (40, 30), 1).save(folder / "ground_truth" / "crack" / "0_mask.png")
        case "mvtec", "lonely":
            picture(folder / "ground_truth" / "crack" / "7_mask.png")
        case "mvtec", "bad in train":
            picture(folder / "train" / "crack" / "0.png")
        case "mvtec", "too deep":
            picture(folder / "test" / "crack" / "a" / "0.png")
        case "mvtec", "no image":
            text(folder / "test" / "crack" / "0.csv", "1,2")
        case "mvtec", "unreadable":
            text(folder / "train" / "good" / "0.png", "no image")
        case "mvtec", "cut off":
            path = folder / "train" / "good" / "0.png"
            path.write_bytes(path.read_bytes()[:60])
        case "mvtec", "16 bits":
            Image.fromarray(np.zeros((30, 40), dtype=np.uint16)).save(folder / "train" / "good" / "0.png")
        case "neu", "class":
            text(folder / "classes.txt", "crack\n")
        case "neu", "outside":
            xml = VOC.format(name="pit_1", width=40, height=30, objects=OBJECT.format("pit", 2, 2, 41, 30))
            text(folder / "ANNOTATIONS" / "pit_1.xml", xml)
        case "neu", "turned":
            xml = VOC.format(name="pit_1", width=40, height=30, objects=OBJECT.format("pit", 20, 2, 2, 30))
            text(folder / "ANNOTATIONS" / "pit_1.xml", xml)
        case "neu", "words":
            xml = VOC.format(name="pit_1", width=40, height=30, objects=OBJECT.format("pit", "left", 2, 2, 30))
            text(folder / "ANNOTATIONS" / "pit_1.xml", xml)
        case "neu", "size":
            text(folder / "ANNOTATIONS" / "pit_1.xml", VOC.format(name="pit_1", width=30, height=40, objects=""))
        case "neu", "no label":
            (folder / "ANNOTATIONS" / "pit_1.xml").unlink()
        case "neu", "no image":
            (folder / "IMAGES" / "pit_1.jpg").unlink()
        case "neu", "no xml":
            text(folder / "ANNOTATIONS" / "pit_1.xml", "<annotation>")
        case "neu", "bomb":
            text(folder / "ANNOTATIONS" / "pit_1.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
        case "neu", "bytes":
            (folder / "ANNOTATIONS" / "pit_1.xml").write_bytes(b"\xff\xfe\x00")
        case "neu", "twice":
            picture(folder / "IMAGES" / "again" / "pit_1.jpg")
        case "yolo", "class":
            text(folder / "labels" / "train" / "1.txt", "2 0.5 0.5 0.2 0.4\n")
        case "yolo", "outside":
            text(folder / "labels" / "train" / "1.txt", "1 0.95 0.5 0.2 0.4\n")
        case "yolo", "empty":
            text(folder / "labels" / "train" / "1.txt", "1 0.5 0.5 0 0.4\n")
        case "yolo", "nan":
            text(folder / "labels" / "train" / "1.txt", "1 0.5 nan 0.1 0.4\n")
        case "yolo", "outline":
            text(folder / "labels" / "train" / "1.txt", "1 0.5 0.5 0.6 0.5 0.6 0.7\n")
        case "yolo", "values":
            text(folder / "labels" / "train" / "1.txt", "1 0.5 0.5\n")
        case "yolo", "lonely":
            text(folder / "labels" / "train" / "9.txt", "")
        case "yolo", "no names":
            text(folder / "data.yaml", "nc: 2\n")
        case "yolo", "gaps":
            text(folder / "data.yaml", "names: {0: a, 5: b}\n")
        case "yolo", "no yaml":
            text(folder / "data.yaml", "names: [a\n")
        case "yolo", "big":
            text(folder / "labels" / "train" / "1.txt", "0" * (scan.MOST_TEXT + 1))
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("layout", "how", "told"),
    [
        ("mvtec", "no mask", "test/crack/0.png: its mask is missing: ground_truth/crack/0_mask.png"),
        ("mvtec", "other size", "ground_truth/crack/0_mask.png: is 41 × 30, and its image 40 × 30"),
        ("mvtec", "empty", "ground_truth/crack/0_mask.png: is empty, but its image counts as defective"),
        ("mvtec", "ones", "ground_truth/crack/0_mask.png: marks its defect with 1: write 255"),
        ("mvtec", "lonely", "ground_truth/crack/7_mask.png: is a mask without an image"),
        ("mvtec", "bad in train", "train/crack/0.png: train/ holds good parts only; bad ones belong into test/"),
        ("mvtec", "too deep", "test/crack/a/0.png: lies where no image is expected; images lie in test/KIND/"),
        ("mvtec", "no image", "test/crack/0.csv: is no image"),
        ("mvtec", "unreadable", "train/good/0.png: cannot be read as an image (not an image, or a damaged one)"),
        ("mvtec", "cut off", "train/good/0.png: cannot be read as an image"),
        ("mvtec", "16 bits", "train/good/0.png: has more than 8 bits per channel (mode I;16): save it with 8"),
        ("neu", "class", "ANNOTATIONS/pit_1.xml: object 1 is of the unknown class 'pit'; known are crack"),
        ("neu", "outside", "ANNOTATIONS/pit_1.xml: object 1 has a box outside the image: 2, 2, 41, 30 in 40 × 30"),
        ("neu", "turned", "ANNOTATIONS/pit_1.xml: object 1 has an empty box (20, 2, 2, 30)"),
        ("neu", "words", "ANNOTATIONS/pit_1.xml: object 1 has an edge that is no number"),
        ("neu", "size", "ANNOTATIONS/pit_1.xml: says its image is 30 × 40; it is 40 × 30"),
        ("neu", "no label", "IMAGES/pit_1.jpg: has no label: annotations/pit_1.xml"),
        ("neu", "no image", "ANNOTATIONS/pit_1.xml: is a label without an image"),
        ("neu", "no xml", "ANNOTATIONS/pit_1.xml: is not XML"),
        ("neu", "bomb", "ANNOTATIONS/pit_1.xml: declares a document type, which no label needs"),
        ("neu", "bytes", "ANNOTATIONS/pit_1.xml: is not text in UTF-8"),
        ("neu", "twice", "IMAGES/pit_1.jpg: has the name of IMAGES/again/pit_1.jpg, so its label could mean either"),
        ("yolo", "class", "labels/train/1.txt: line 1 is of the unknown class '2'; known are scratch, pit"),
        ("yolo", "outside", "labels/train/1.txt: line 1 has a box outside the image: 34, 9, 42, 21 in 40 × 30"),
        ("yolo", "empty", "labels/train/1.txt: line 1 has an empty box"),
        ("yolo", "nan", "labels/train/1.txt: line 1 has an edge that is no number"),
        ("yolo", "outline", "labels/train/1.txt: line 1 is an outline; only boxes are read"),
        ("yolo", "values", "labels/train/1.txt: line 1 has 3 values, not 5"),
        ("yolo", "lonely", "labels/train/9.txt: is a label without an image"),
        ("yolo", "no names", "data.yaml: is missing or names no classes"),
        ("yolo", "gaps", "data.yaml: numbers its classes with gaps; they count from 0"),
        ("yolo", "no yaml", "data.yaml: is not YAML"),
        ("yolo", "big", "labels/train/1.txt: is bigger than 4 MB, which no label file is"),
    ],
)
def test_the_bad_file_is_named_with_the_reason(tmp_path: Path, layout: str, how: str, told: str) -> None:
    folder = MAKERS[layout](tmp_path / "parts")
    spoil(layout, folder, how)
    found = layouts.check(folder)
    assert any(problem.startswith(told) for problem in found.problems), found.problems
    assert not [problem for problem in found.problems if "crack/1" in problem or ("pit_2" in problem and how != "class")]
    # What the layout's verdict refuses is not read either, but for what only a look at every pixel shows.
    if how not in ("empty", "ones"):
        with pytest.raises(DataError):
            layouts.load(folder, progress=False)


def test_a_picture_of_too_many_pixels_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MOST_PIXELS", 1000)
    found = layouts.check(mvtec(tmp_path))
    assert "has 40 × 30 pixels" in found.problems[0]


def test_a_program_for_a_printer_is_not_run(tmp_path: Path) -> None:
    mvtec(tmp_path)
    text(tmp_path / "train" / "good" / "9.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "9.png: cannot be read as an image (not an image" in layouts.check(tmp_path).problems[0]


def test_names_are_shown_without_what_moves_a_cursor(tmp_path: Path) -> None:
    mvtec(tmp_path)
    text(tmp_path / "train" / "good" / "a\n\x1b[2J.png", "")
    (problem,) = layouts.check(tmp_path).problems
    assert problem.startswith("train/good/a??[2J.png: ")


@pytest.mark.parametrize("what", ["nothing", "no images", "two layouts", "too many"])
def test_a_folder_of_no_layout_is_one_sentence(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, told = None, "has none of the layouts that are read"
    if what == "no images":
        layout, told = "neu", "has no images where layout neu has them"
    if what == "two layouts":
        neu(yolo(tmp_path))
        told = "could be of more than one layout; name one with --layout"
    if what == "too many":
        monkeypatch.setattr(scan, "MOST_FILES", 3)
        yolo(tmp_path)
        told = "holds more than 3 files"
    with pytest.raises(DataError, match=told):
        layouts.check(tmp_path, layout)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_label_whatever_it_says_breaks_the_look(tmp_path_factory: pytest.TempPathFactory, line: str, names: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    picture(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(line, "utf-8", errors="replace")
    (folder / "data.yaml").write_text(names, "utf-8", errors="replace")
    layouts.check(folder, "yolo")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "a.xml").write_text(f"<annotation>{line}</annotation>", "utf-8", errors="replace")
    layouts.check(folder, "neu")


@given(
    st.lists(st.tuples(*[st.floats(0.0, 1.0)] * 4), max_size=5).map(
        lambda corners: [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    )
)
def test_boxes_inside_the_image_are_read_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, float, float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    picture(folder / "images" / "a.png", (100, 50))
    real = [(a, b, c, d) for a, b, c, d in boxes if c - a > 1e-3 and d - b > 1e-3]
    lines = [f"0 {(a + c) / 2:.6f} {(b + d) / 2:.6f} {c - a:.6f} {d - b:.6f}" for a, b, c, d in real]
    text(folder / "labels" / "a.txt", "\n".join(lines))
    text(folder / "classes.txt", "pit\n")
    (item,) = layouts.check(folder, "yolo").items
    assert len(item.boxes) == len(real)
    for box, (left, top, right, bottom) in zip(item.boxes, real, strict=True):
        found, wanted = (box.left, box.top, box.right, box.bottom), (100 * left, 50 * top, 100 * right, 50 * bottom)
        assert np.allclose(found, wanted, atol=1e-3)


def test_the_command_names_the_first_bad_files_and_the_verdict_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = yolo(tmp_path)
    assert main(["data", "check", str(folder), "--called", "/srv/mine"]) == 0
    assert capsys.readouterr().out.startswith(
        "/srv/mine (layout yolo) is in order: 3 images, 2 good, 1 defective with 2 boxes (scratch 1)"
    )
    text(folder / "labels" / "train" / "1.txt", "9 0.5 0.5 0.2 0.4\n" * 30)
    assert main(["data", "check", str(folder), "--called", "/srv/mine"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[-2:] == ["… and 10 more", "/srv/mine (layout yolo) has 30 problems in 3 images."]
    assert main(["data", "check", str(tmp_path / "none"), "--called", "/srv/none"]) == 1
    assert capsys.readouterr().err == "defectlab: There is no folder /srv/none.\n"

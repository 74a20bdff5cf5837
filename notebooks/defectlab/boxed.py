"""Folders with boxes: as NEU-DET is (Pascal VOC, one XML per image), and as YOLO wants them (one text per image).

Owns those two layouts. Never judges what a box says, but that it lies in its image and has a class that is known.

    neu     annotations/NAME.xml beside images/NAME.jpg or images/CLASS/NAME.jpg, also below train/ and validation/;
            classes.txt names the classes, one a line; without it, every name that a label uses is a class
    yolo    images/…/NAME.jpg and labels/…/NAME.txt, or train/images/ and train/labels/; each line is a class's number and
            the box's middle, width and height as parts of the image; data.yaml or classes.txt names the classes

In both, an image whose label names no box is a good one. NEU-DET wants a label for every image, YOLO does not.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import yaml

from defectlab.scan import Box, Item, Scan, is_image

NEU_SHAPE = "annotations/NAME.xml and images/NAME.jpg"
YOLO_SHAPE = "images/NAME.jpg, labels/NAME.txt and data.yaml"
MOST_BOXES = 10_000
# Written with six digits, a box at the rim may stick out by a hair.
_HAIR = 1e-3


def fits_neu(scan: Scan) -> bool:
    """Whether a folder has annotations in XML."""
    return any(_is_annotation(file) for file in scan.files)


def fits_yolo(scan: Scan) -> bool:
    """Whether a folder has labels in text."""
    return any(_is_label(file) for file in scan.files)


def read_neu(scan: Scan) -> list[Item]:
    """Every image, with its boxes; what is wrong is noted in the scan."""
    known = _classes_txt(scan)
    images: dict[tuple[PurePosixPath, str], PurePosixPath] = {}
    for file in scan.files:
        root = _above(file, ("images", "jpegimages"))
        if root is None or not is_image(file):
            continue
        if (root, file.stem) in images:
            scan.bad(file, f"has the name of {images[root, file.stem]}, so its label could mean either")
        else:
            images[root, file.stem] = file
    labels = {(file.parent.parent, file.stem): file for file in scan.files if _is_annotation(file)}
    for key in sorted(labels.keys() - images.keys()):
        scan.bad(labels[key], "is a label without an image")
    items = []
    for key, image in sorted(images.items()):
        size = scan.image(image)
        if key not in labels:
            scan.bad(image, f"has no label: annotations/{image.stem}.xml")
            continue
        boxes = _voc(scan, labels[key], size, known)
        items.append(Item(str(image), _kind(boxes), scan.folder.resolve().name, boxes=tuple(boxes)))
    return items


def read_yolo(scan: Scan) -> list[Item]:
    """Every image, with its boxes; what is wrong is noted in the scan."""
    known = _yolo_classes(scan)
    labels = {file.with_suffix(""): file for file in scan.files if _is_label(file)}
    items, met = [], set()
    for image in scan.files:
        if not is_image(image) or _above(image, ("images",)) is None:
            continue
        size = scan.image(image)
        key = _swapped(image).with_suffix("")
        met.add(key)
        boxes = _yolo(scan, labels[key], size, known) if key in labels else []
        items.append(Item(str(image), _kind(boxes), scan.folder.resolve().name, boxes=tuple(boxes)))
    for key in sorted(labels.keys() - met):
        scan.bad(labels[key], "is a label without an image")
    return items


def _voc(scan: Scan, file: PurePosixPath, size: tuple[int, int] | None, known: list[str] | None) -> list[Box]:
    text = scan.text(file)
    if text is None:
        return []
    # No label needs a document type, and its entities can blow up a small file to gigabytes.
    if "<!DOCTYPE" in text.upper():
        scan.bad(file, "declares a document type, which no label needs")
        return []
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - see above
    except (ElementTree.ParseError, ValueError) as error:
        scan.bad(file, f"is not XML ({error})")
        return []
    told = root.findtext("size/width"), root.findtext("size/height")
    if size is not None and all(told) and told != (str(size[0]), str(size[1])):
        scan.bad(file, f"says its image is {told[0]} × {told[1]}; it is {size[0]} × {size[1]}")
    found: list[Box] = []
    for number, one in enumerate(root.findall("object"), start=1):
        edges = [_number(one.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        name = (one.findtext("name") or "").strip()
        box = Box(name, *edges)
        if not name or (known is not None and name not in known):
            scan.bad(file, f"object {number} is of the unknown class {name[:40]!r}{_among(known)}")
        elif _lies_well(scan, file, f"object {number}", box, size):
            found.append(box)
        if number == MOST_BOXES:
            scan.bad(file, f"has more than {MOST_BOXES:,} objects")
            break
    return found


def _yolo(scan: Scan, file: PurePosixPath, size: tuple[int, int] | None, known: list[str]) -> list[Box]:
    lines = (scan.text(file) or "").splitlines()
    if len(lines) > MOST_BOXES:
        scan.bad(file, f"has more than {MOST_BOXES:,} lines")
        return []
    found: list[Box] = []
    width, height = size or (1, 1)
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f"line {number}"
        if len(words) != 5:
            outline = len(words) > 5 and len(words) % 2 == 1
            what = "is an outline; only boxes are read" if outline else f"has {len(words)} values, not 5"
            scan.bad(file, f"{where} {what}")
            continue
        x, y, w, h = (_number(word) for word in words[1:])
        if not words[0].isdecimal() or len(words[0]) > 6 or int(words[0]) >= len(known):
            if known:
                scan.bad(file, f"{where} is of the unknown class {words[0][:40]!r}{_among(known)}")
            continue
        edges = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        box = Box(known[int(words[0])], *edges)
        if _lies_well(scan, file, where, box, (width, height)):
            found.append(box)
    return found


def _lies_well(scan: Scan, file: PurePosixPath, where: str, box: Box, size: tuple[int, int] | None) -> bool:
    edges = (box.left, box.top, box.right, box.bottom)
    told = ", ".join(f"{edge:g}" for edge in edges)
    if not all(math.isfinite(edge) for edge in edges):
        scan.bad(file, f"{where} has an edge that is no number")
    elif box.right <= box.left or box.bottom <= box.top:
        scan.bad(file, f"{where} has an empty box ({told})")
    elif size is not None and not _inside(edges, size):
        scan.bad(file, f"{where} has a box outside the image: {told} in {size[0]} × {size[1]}")
    else:
        return True
    return False


def _inside(edges: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    width, height = size
    left, top, right, bottom = edges
    return left >= -_HAIR * width and top >= -_HAIR * height and right <= width * (1 + _HAIR) and bottom <= height * (1 + _HAIR)


def _kind(boxes: list[Box]) -> str:
    if not boxes:
        return "good"
    return max(boxes, key=lambda box: (box.right - box.left) * (box.bottom - box.top)).kind


def _yolo_classes(scan: Scan) -> list[str]:
    for file in scan.files:
        if len(file.parts) == 1 and file.suffix.lower() in (".yaml", ".yml"):
            names = _yaml_names(scan, file)
            if names:
                return names
    listed = _classes_txt(scan)
    if not listed:
        scan.bad("data.yaml", "is missing or names no classes (`names: [scratch, pit]`); classes.txt would do, too")
    return listed or []


def _yaml_names(scan: Scan, file: PurePosixPath) -> list[str]:
    text = scan.text(file)
    try:
        found: Any = yaml.safe_load(text or "")
    except (yaml.YAMLError, ValueError, RecursionError):
        scan.bad(file, "is not YAML")
        return []
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(str(number) for number in range(len(names))):
            scan.bad(file, "numbers its classes with gaps; they count from 0")
            return []
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name)[:80] for name in names] if isinstance(names, list) else []


def _classes_txt(scan: Scan) -> list[str] | None:
    for file in scan.files:
        if file.name == "classes.txt" and len(file.parts) <= 2:
            return [line.strip() for line in (scan.text(file) or "").splitlines() if line.strip()]
    return None


def _is_annotation(file: PurePosixPath) -> bool:
    return file.suffix.lower() == ".xml" and file.parent.name.lower() in ("annotations", "annotation")


def _is_label(file: PurePosixPath) -> bool:
    return file.suffix.lower() == ".txt" and file.name != "classes.txt" and _above(file, ("labels",)) is not None


def _above(file: PurePosixPath, names: tuple[str, ...]) -> PurePosixPath | None:
    """The folder that holds the last folder of one of these names on the way to a file."""
    for at in range(len(file.parts) - 2, -1, -1):
        if file.parts[at].lower() in names:
            return PurePosixPath(*file.parts[:at])
    return None


def _swapped(image: PurePosixPath) -> PurePosixPath:
    """Where the label of a YOLO image lies."""
    root = _above(image, ("images",))
    assert root is not None, image
    at = len(root.parts)
    return PurePosixPath(*image.parts[:at], "labels", *image.parts[at + 1 :])


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _among(known: list[str] | None) -> str:
    return f"; known are {', '.join(known)[:200]}" if known else ""

"""Your own images, in the three layouts that most tools write: MVTec AD, NEU-DET (Pascal VOC) and YOLO.

Owns telling the layouts apart, the verdict on a folder, and reading one as a `DataSet`. Never changes a folder, and never reads a
folder with a bad file as if it were whole.

    folder = "/workspace/data/my-parts"
    print(layouts.check(folder))
    images = layouts.load(folder, size=256)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from defectlab import boxed, files, mvtec
from defectlab.data import DataSet, Images, Masks, Record
from defectlab.folders import DataError
from defectlab.scan import Item, Layout, Scan

LAYOUTS: tuple[Layout, ...] = ("mvtec", "neu", "yolo")
_FITS: dict[Layout, Callable[[Scan], bool]] = {"mvtec": mvtec.fits, "neu": boxed.fits_neu, "yolo": boxed.fits_yolo}
_READ: dict[Layout, Callable[[Scan], list[Item]]] = {"mvtec": mvtec.read, "neu": boxed.read_neu, "yolo": boxed.read_yolo}
_SHAPES: dict[Layout, str] = {"mvtec": mvtec.SHAPE, "neu": boxed.NEU_SHAPE, "yolo": boxed.YOLO_SHAPE}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in a folder.

    Attributes:
        folder: which.
        layout: its layout.
        items: its images.
        problems: one sentence per bad file, the file first; the first thousand.
        count: of all problems.
    """

    folder: Path
    layout: Layout
    items: tuple[Item, ...]
    problems: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        if self.count:
            many = "1 problem" if self.count == 1 else f"{self.count} problems"
            return f"{self.folder} (layout {self.layout}) has {many} in {len(self.items)} images."
        kinds = Counter(item.kind for item in self.items)
        good, boxes = kinds.pop("good", 0), sum(len(item.boxes) for item in self.items)
        told = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(20))
        around = f" with {boxes} boxes" if boxes else ""
        return (
            f"{self.folder} (layout {self.layout}) is in order: {len(self.items)} images, {good} good, "
            f"{kinds.total()} defective{around}{f' ({told})' if told else ''}."
        )


def check(folder: Path | str, layout: Layout | None = None) -> Verdict:
    """Look at every image and every label of a folder.

    Args:
        folder: the folder.
        layout: its layout; None finds it out.

    Raises:
        DataError: the folder cannot be read, has none of the layouts, or more than one.
    """
    return _verdict(Scan(Path(folder)), layout)


def load(folder: Path | str, size: int | None = None, layout: Layout | None = None, *, progress: bool = True) -> DataSet:
    """Read a folder of your own images.

    Masks are those of MVTec AD's layout; boxes are no masks. Every image counts as a group of its own, because no layout says
    which images show the same part: where yours do, split by that yourself.

    Args:
        folder: the folder.
        size: resize all images to this many pixels square; None leaves them as they are.
        layout: its layout; None finds it out.
        progress: show a bar.

    Raises:
        DataError: a file is bad, the images differ in size, or there is no such layout.
    """
    scan = Scan(Path(folder), decode=False)
    found = _verdict(scan, layout)
    images: list[Images] = []
    masks: list[Masks | None] = []
    for item in tqdm(found.items, desc=f"reading {found.folder.name}", unit=" images", disable=None if progress else True):
        image = _sized(scan.pixels(item.file), size)
        mask = _sized(scan.pixels(item.mask), size) if item.mask else None
        if scan.count:
            raise DataError(f"{scan.problems[0]}. `gpulab data verify {found.folder}` lists all that is wrong.")
        assert image is not None
        images.append(image)
        masks.append(None if mask is None else mask > 127)
    if not images or len({image.shape for image in images}) > 1:
        raise DataError(f"The images of {found.folder} differ in size: give one, such as load(…, size=256).")
    if any(mask is not None and mask.shape != image.shape for mask, image in zip(masks, images, strict=True)):
        raise DataError(f"Masks of {found.folder} differ in size from their images.")
    empty = np.zeros(images[0].shape, dtype=bool)
    has_masks = any(mask is not None for mask in masks)
    return DataSet(
        name=found.folder.resolve().name,
        title=found.folder.resolve().name,
        licence="your own",
        attribution="",
        digest=_digest(scan, found),
        images=np.stack(images),
        masks=np.stack([empty if mask is None else mask for mask in masks]) if has_masks else None,
        records=tuple(
            Record(item.file, item.defective, item.kind, item.file, item.source, has_mask=bool(item.mask)) for item in found.items
        ),
    )


def _verdict(scan: Scan, layout: Layout | None) -> Verdict:
    layout = layout or _guess(scan)
    items = _READ[layout](scan)
    if not items and not scan.count:
        raise DataError(f"{scan.folder} has no images where layout {layout} has them: {_SHAPES[layout]}.")
    return Verdict(scan.folder, layout, tuple(items), tuple(scan.problems), scan.count)


def _guess(scan: Scan) -> Layout:
    fitting = [layout for layout in LAYOUTS if _FITS[layout](scan)]
    if len(fitting) == 1:
        return fitting[0]
    shapes = "; ".join(f"{layout}: {_SHAPES[layout]}" for layout in fitting or LAYOUTS)
    if fitting:
        raise DataError(f"{scan.folder} could be of more than one layout; name one with --layout ({shapes}).")
    raise DataError(f"{scan.folder} has none of the layouts that are read ({shapes}).")


def _sized(pixels: Images | None, size: int | None) -> Images | None:
    if pixels is None or size is None or pixels.shape == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))


def _digest(scan: Scan, found: Verdict) -> str:
    """One checksum for all images and labels, whatever else lies in the folder."""
    total = hashlib.sha256(found.layout.encode())
    images = {item.file for item in found.items} | {item.mask for item in found.items if item.mask}
    labels = {str(file) for file in scan.files if file.suffix.lower() in (".xml", ".txt", ".yaml", ".yml")}
    for name in sorted(images | labels):
        total.update(f"{PurePosixPath(name)} {files.sha256(found.folder / name)}\n".encode())
    return total.hexdigest()

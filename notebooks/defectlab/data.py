"""From a data set folder to arrays, and to parts that do not leak into each other.

Owns reading, resizing and splitting. Never writes, and never changes an image but in size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from defectlab import folders
from defectlab.folders import DataError

Images = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Box = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about one image.

    Attributes:
        file: its path in the data set folder.
        defective: the label.
        kind: what kind of defect, or of good part.
        group: images of one group show the same piece of the world; no split may cut a group.
        source: what it was taken from, such as the texture or the type of solar cell.
        box: x, y and size of its place in its source, in pixels, where that is known.
        has_mask: whether the pixels of its defect are known. A good image needs no mask.
    """

    file: str
    defective: bool
    kind: str
    group: str
    source: str
    box: Box | None = None
    has_mask: bool = False


@dataclass(frozen=True, slots=True)
class DataSet:
    """Images with what is known about them.

    Attributes:
        name, title, licence, attribution: of the data set they come from.
        digest: checksum of that data set; a model should remember it.
        images: grey images, `(n, height, width)`, 0 to 255.
        masks: pixels of the defects, same shape; None where the data set has none.
        records: one per image.
    """

    name: str
    title: str
    licence: str
    attribution: str
    digest: str
    images: Images
    masks: Masks | None
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> Masks:
        """True where the image is defective."""
        return np.array([record.defective for record in self.records], dtype=bool)

    @property
    def kinds(self) -> dict[str, int]:
        """How many images there are of each kind, most first."""
        return dict(Counter(record.kind for record in self.records).most_common())

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> DataSet:
        """Some of the images, in the order given."""
        chosen = np.asarray(indices, dtype=np.intp)
        masks = None if self.masks is None else self.masks[chosen]
        records = tuple(self.records[i] for i in chosen)
        about = (self.name, self.title, self.licence, self.attribution, self.digest)
        return DataSet(*about, self.images[chosen], masks, records)

    def __str__(self) -> str:
        bad = int(self.labels.sum())
        height, width = self.images.shape[1:]
        groups = len({record.group for record in self.records})
        return f"{len(self)} images of {width} × {height}: {len(self) - bad} good, {bad} defective, from {groups} groups"


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts: to learn from, to choose by, and to be judged by, once."""

    train: DataSet
    validation: DataSet
    test: DataSet


def load(folder: Path | str, size: int | None = None, *, progress: bool = True) -> DataSet:
    """Read a data set.

    Args:
        folder: the data set's folder.
        size: resize all images to this many pixels square; None leaves them as they are.
        progress: show a bar.

    Raises:
        DataError: there is no data set, or a file of it cannot be read.
    """
    folder = Path(folder)
    about = folders.describe(folder)
    rows = folders.read_records(folder)
    images: list[Images] = []
    masks: list[Masks | None] = []
    for row in tqdm(rows, desc=f"reading {about['name']}", unit=" images", disable=None if progress else True):
        images.append(_read(folder / row["file"], size))
        masks.append(_read(folder / row["mask"], size) > 127 if row["mask"] else None)
    if len({image.shape for image in images}) > 1:
        raise DataError(f"The images of {folder} differ in size: give one, such as load(…, size=128).")
    records = tuple(_record(row) for row in rows)
    return DataSet(
        name=str(about["name"]),
        title=str(about["title"]),
        licence=str(about["licence"]),
        attribution=str(about["attribution"]),
        digest=folders.digest(folder),
        images=np.stack(images),
        masks=_stack(masks, images),
        records=records,
    )


def join(*parts: DataSet) -> DataSet:
    """Several sets of images as one, in that order; described as the first.

    Raises:
        DataError: their images differ in size, or some have masks and others have not.
    """
    if len({part.images.shape[1:] for part in parts}) > 1 or len({part.masks is None for part in parts}) > 1:
        raise DataError("Only images of one size, all with masks or all without, can be joined.")
    masks = [part.masks for part in parts if part.masks is not None]
    first, digest = parts[0], hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    about = (first.name, first.title, first.licence, first.attribution, digest)
    records = tuple(record for part in parts for record in part.records)
    return DataSet(*about, np.concatenate([part.images for part in parts]), np.concatenate(masks) if masks else None, records)


def split(data: DataSet, validation: float = 0.125, test: float = 0.25, *, seed: int = 0) -> Split:
    """Three parts that share no group, with every source in each of them.

    Args:
        data: what to split.
        validation: share of the groups of each source.
        test: share of the groups of each source.
        seed: decides which groups go where.

    Raises:
        DataError: a source has too few groups to be in all three parts, or groups share pixels.
    """
    # A group may hold more than one source; it counts as what most of it is.
    sources: dict[str, Counter[str]] = {}
    for record in data.records:
        sources.setdefault(record.group, Counter())[record.source] += 1
    by_source: dict[str, list[str]] = {}
    for group in sorted(sources):
        by_source.setdefault(sources[group].most_common(1)[0][0], []).append(group)
    rng = np.random.default_rng(seed)
    part: dict[str, int] = {}
    for source in sorted(by_source):
        groups = [str(group) for group in rng.permutation(by_source[source])]
        last, middle = (max(1, round(share * len(groups))) for share in (test, validation))
        if last + middle >= len(groups):
            raise DataError(f"Of {source!r} there are {len(groups)} groups, too few for three parts that share none.")
        part |= {group: 2 for group in groups[:last]} | {group: 1 for group in groups[last : last + middle]}
    where = np.array([part.get(record.group, 0) for record in data.records])
    found = Split(*(data.take(np.flatnonzero(where == number)) for number in range(3)))
    if leaks(found):
        raise DataError(f"Images of different groups of {data.name} share pixels, so no split of it is honest.")
    return found


def leaks(parts: Split) -> list[tuple[Record, Record]]:
    """Pairs of images in different parts that show the same pixels of the same source, or are of one group."""
    found: list[tuple[Record, Record]] = []
    sets = (parts.train.records, parts.validation.records, parts.test.records)
    for mine, other in ((0, 1), (0, 2), (1, 2)):
        groups = {record.group for record in sets[mine]}
        by_source: dict[str, list[Record]] = {}
        for record in sets[mine]:
            by_source.setdefault(record.source, []).append(record)
        for record in sets[other]:
            near = by_source.get(record.source, [])
            if record.group in groups:
                found += [(one, record) for one in near if one.group == record.group]
            elif record.box is not None:
                found += [(one, record) for one in near if one.box is not None and overlap(one.box, record.box)]
    return found


def overlap(one: Box, other: Box) -> bool:
    """Whether two squares, each x, y and size, share a pixel."""
    return all(abs_gap < 0 for abs_gap in (_gap(one, other, 0), _gap(one, other, 1)))


def _gap(one: Box, other: Box, axis: int) -> int:
    return max(one[axis] - other[axis] - other[2], other[axis] - one[axis] - one[2])


def _read(path: Path, size: int | None) -> Images:
    try:
        with Image.open(path) as file:
            grey = file.convert("L")
            if size is not None and grey.size != (size, size):
                grey = grey.resize((size, size), Image.Resampling.BOX)
            return np.asarray(grey)
    except OSError as error:
        raise DataError(f"The image {path} cannot be read ({error.strerror or error}).") from None


def _stack(masks: list[Masks | None], images: list[Images]) -> Masks | None:
    if all(mask is None for mask in masks):
        return None
    empty = np.zeros(images[0].shape, dtype=bool)
    return np.stack([empty if mask is None else mask for mask in masks])


def _record(row: dict[str, str]) -> Record:
    box = (int(row["x"]), int(row["y"]), int(row["size"])) if row.get("x") else None
    defective = row["defective"] == "1"
    return Record(row["file"], defective, row["kind"], row["group"], row["source"], box, has_mask=bool(row["mask"]))

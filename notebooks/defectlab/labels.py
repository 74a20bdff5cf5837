"""Labels that people correct, without losing what was there before.

Owns the file of decisions, to which a line is added for each: which image, what somebody said about it, who, and when. Never
changes a data set, never takes a line away, and never decides which label is right.

    kept = LabelFile(folder / "labels.jsonl", images)
    kept.add("images/brick-00012.png", defective=True, by="ana")
    better = kept.apply(images)               # the same images with the labels as they are decided now
    before = kept.apply(images, version=0)    # … and as they were
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defectlab import files
from defectlab.data import DataSet, Record

FORMAT = 1
UNNAMED = "defect"


class LabelError(Exception):
    """Decisions cannot be kept or read; its text is one sentence for a person, with what to do."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody said about one image.

    Attributes:
        file: the image, as its data set calls it.
        defective: the label; None takes back what was decided about this image, so that its first label holds again.
        by: who.
        at: when, in UTC.
    """

    file: str
    defective: bool | None
    by: str
    at: str


class LabelFile:
    """Decisions about the images of one data set, the oldest first. Several people may add to one file.

    Args:
        path: the file; it is made by the first decision.
        data: the images that are decided about.

    Raises:
        LabelError: the file is about other images, or cannot be read.
    """

    def __init__(self, path: Path, data: DataSet) -> None:
        self.path, self._data = path, data
        self._known = {record.file for record in data.records}
        self.decisions()

    @property
    def version(self) -> int:
        """How many decisions there are; a training should note which version it learnt from."""
        return len(self.decisions())

    def decisions(self) -> tuple[Decision, ...]:
        """All decisions, the oldest first. A line that was cut off is left out: whoever wrote it was not told that it was kept.

        Raises:
            LabelError: the file is about other images, or cannot be read.
        """
        try:
            lines = self.path.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise LabelError(f"The labels {self.path} cannot be read ({error.strerror or error}).") from None
        if not lines:
            return ()
        if _parsed(lines[0]) != self._head():
            raise LabelError(f"{self.path} does not hold labels of this {self._data.name}: choose another file for them.")
        return tuple(found for line in lines[1:] if (found := _decision(line)) is not None)

    def add(self, file: str, defective: bool | None, by: str) -> Decision:
        """Decide about an image; on the disk when this returns.

        Raises:
            LabelError: there is no such image, or the file cannot be written.
        """
        if file not in self._known:
            raise LabelError(f"There is no image {file!r} in this {self._data.name}, so nothing was decided about it.")
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        made = Decision(file, None if defective is None else bool(defective), by, at)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as kept:
                # Others may add at the same moment: one write per decision, which the kernel puts at the end.
                kept.write((self._missing(kept.tell()) + json.dumps(asdict(made), ensure_ascii=False) + "\n").encode())
                kept.flush()
                os.fsync(kept.fileno())
        except OSError as error:
            remedy = "give another path for the labels"
            raise LabelError(files.sentence(error, self.path.parent, "the label", remedy)) from error
        return made

    def labels(self, version: int | None = None) -> dict[str, bool]:
        """The label of every image about which one is decided.

        Args:
            version: after so many decisions; None is now.
        """
        found: dict[str, bool] = {}
        for decision in self.decisions()[:version]:
            found.pop(decision.file, None)
            if decision.defective is not None:
                found[decision.file] = decision.defective
        return found

    def apply(self, data: DataSet, version: int | None = None) -> DataSet:
        """The same images with the labels that were decided."""
        return relabelled(data, self.labels(version))

    def _head(self) -> dict[str, object]:
        return {"format": FORMAT, "data": self._data.name, "digest": self._data.digest}

    def _missing(self, size: int) -> str:
        """What has to stand before the next line: the head, or the end of a line that was cut off."""
        if size == 0:
            return json.dumps(self._head()) + "\n"
        with self.path.open("rb") as kept:
            kept.seek(-1, os.SEEK_END)
            return "" if kept.read() == b"\n" else "\n"


def relabelled(data: DataSet, labels: Mapping[str, bool]) -> DataSet:
    """The same images with other labels; images that are not named keep theirs.

    Whoever says that an image is defective has not drawn its mask, and whoever says that it is good denies it: a label that
    changes leaves no mask behind. The digest changes with the labels.
    """
    changed = [i for i, record in enumerate(data.records) if labels.get(record.file, record.defective) != record.defective]
    if not changed:
        return data
    records, masks = list(data.records), None if data.masks is None else data.masks.copy()
    for i in changed:
        records[i] = _turned(records[i])
        if masks is not None:
            masks[i] = False
    told = json.dumps([data.digest, sorted((records[i].file, records[i].defective) for i in changed)])
    return replace(data, records=tuple(records), masks=masks, digest=hashlib.sha256(told.encode()).hexdigest())


def hurried(data: DataSet, share: float, *, seed: int, overlooked: float = 0.75) -> tuple[DataSet, NDArray[np.bool_]]:
    """The images as somebody in a hurry would label them, and which labels are wrong.

    Most mistakes are defects that were overlooked, and a small one is overlooked sooner than a large one. The rest are good
    parts on which dust or the texture looked like a defect.

    Args:
        data: images with the right labels.
        share: of the labels that become wrong.
        seed: decides which.
        overlooked: share of the mistakes that are overlooked defects.
    """
    rng = np.random.default_rng([seed, 1])
    bad, good = np.flatnonzero(data.labels), np.flatnonzero(~data.labels)
    mistakes = round(share * len(data))
    missed = min(round(overlooked * mistakes), len(bad))
    areas = np.ones(len(bad)) if data.masks is None else data.masks[bad].sum(axis=(1, 2)) + 1.0
    odds = (1.0 / areas) / (1.0 / areas).sum() if len(bad) else None
    wrong = np.zeros(len(data), dtype=bool)
    wrong[rng.choice(bad, missed, replace=False, p=odds)] = True
    wrong[rng.choice(good, min(mistakes - missed, len(good)), replace=False)] = True
    said = {record.file: record.defective != bool(is_wrong) for record, is_wrong in zip(data.records, wrong, strict=True)}
    return relabelled(data, said), wrong


@dataclass(frozen=True, slots=True)
class SimulatedReviewer:
    """Somebody who looks closely and still errs at times; says the same about an image whenever it is asked.

    Attributes:
        truth: the right labels by file.
        errs: how often it is wrong, 0 to 1.
        seed: decides where.
    """

    truth: Mapping[str, bool]
    errs: float
    seed: int

    def says(self, file: str) -> bool:
        """Its label for an image."""
        drawn = int.from_bytes(hashlib.sha256(f"{self.seed} {file}".encode()).digest()[:8], "big") / 2**64
        return self.truth[file] != (drawn < self.errs)


def truth_of(data: DataSet) -> dict[str, bool]:
    """Labels by file."""
    return {record.file: record.defective for record in data.records}


def _turned(record: Record) -> Record:
    return replace(record, defective=not record.defective, kind="good" if record.defective else UNNAMED, has_mask=False)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _decision(line: str) -> Decision | None:
    told = _parsed(line)
    try:
        found = Decision(**told) if isinstance(told, dict) else None
    except TypeError:
        return None
    return found if found is not None and (found.defective is None or isinstance(found.defective, bool)) else None

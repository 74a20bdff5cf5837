"""A data set on disk.

Owns the layout of a data set folder, writing one whole or not at all, and checking one. Never knows what the images show.

    dataset.json   what it is: name, title, licence, attribution, source, the recipe it was made by
    records.csv    one line per image: file, mask, defective (0 or 1), kind, group, source, and whatever else is known;
                   data that are no images have index.json instead
    SHA256SUMS     checksum of every other file, as `sha256sum --check` reads it
    images/ …      the images; masks/ has their pixel masks, where there are any

Images of one *group* show the same piece of the world, so a split has to keep them together.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FORMAT = 1
DESCRIPTION = "dataset.json"
RECORDS = "records.csv"
SUMS = "SHA256SUMS"
COLUMNS = ("file", "mask", "defective", "kind", "group", "source")
# A writer that was killed leaves its hidden folder behind; one this old belongs to nobody any more.
_LEFTOVER_SECONDS = 24 * 3600


class DataError(Exception):
    """A data set cannot be read or written; its text is one sentence for a person, with what to do."""


def describe(folder: Path) -> dict[str, Any]:
    """The description of a data set.

    Raises:
        DataError: there is none, or it is of a format that this version does not know.
    """
    try:
        found = json.loads((folder / DESCRIPTION).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no data set in {folder}: your admin installs one with `gpulab data get`.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The data set in {folder} cannot be read ({_reason(error)}).") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{folder / DESCRIPTION} is not a data set of format {FORMAT}, the one this version reads.")
    return found


def read_records(folder: Path) -> list[dict[str, str]]:
    """The lines of records.csv.

    Raises:
        DataError: it is missing, or lacks a column that every data set has.
    """
    try:
        with (folder / RECORDS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"The list of images {folder / RECORDS} cannot be read ({_reason(error)}).") from None
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{folder / RECORDS} has no column {missing[0]!r}; a data set has {', '.join(COLUMNS)}.")
    return rows


def write_description(folder: Path, description: Mapping[str, Any], records: Sequence[Mapping[str, object]]) -> None:
    """Write dataset.json, records.csv and, last of all, the checksums of everything in the folder."""
    text = json.dumps({"format": FORMAT, "images": len(records), **description}, indent=2, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", "utf-8")
    with (folder / RECORDS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    (folder / SUMS).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in _names(folder)), "utf-8")


def digest(folder: Path) -> str:
    """One checksum for the whole data set: that of its list of checksums.

    Raises:
        DataError: the list is not there.
    """
    try:
        return _sha256(folder / SUMS)
    except OSError as error:
        raise DataError(f"The checksums {folder / SUMS} cannot be read ({_reason(error)}).") from None


def problems(folder: Path) -> list[str]:
    """What differs between a data set and its checksums, one sentence per file; empty when nothing does."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        return [f"{SUMS} cannot be read ({_reason(error)})"]
    expected = {name: total for total, _, name in (line.partition("  ") for line in lines)}
    found = set(_names(folder))
    told = [f"{name} is not part of the data set" for name in sorted(found - set(expected))]
    for name, total in expected.items():
        if name not in found:
            told.append(f"{name} is missing")
        elif _sha256(folder / name) != total:
            told.append(f"{name} was changed")
    return told


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that becomes `target` when the block ends well, and is removed when it does not.

    A data set that is already there is replaced; readers see the old one or the new one, never half of one.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    part = target.parent / f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _drop_leftovers(target)
            part.mkdir()
            yield part
            _put_in_place(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(_sentence(error, target)) from error


def _put_in_place(part: Path, target: Path) -> None:
    old = part.with_name(part.name + "-old")
    with suppress(FileNotFoundError):
        os.rename(target, old)
    os.rename(part, target)
    shutil.rmtree(old, ignore_errors=True)


def _drop_leftovers(target: Path) -> None:
    for path in target.parent.glob(f".{target.name}-*"):
        if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _sentence(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {target.parent} is full, so {target.name} was not written: free some space and run this again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"User {os.getuid()} cannot write to {target.parent}, so {target.name} was not written: "
            "let that user write there, or name another folder."
        )
    return f"{target} could not be written ({_reason(error)})."


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(name for path in files if (name := path.relative_to(folder).as_posix()) != SUMS)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""What is installed, whether it is whole, and who accepted which licence.

Owns reading the folder of data sets, comparing one with its checksums, and the list of accepted licences that lies beside them.
Never changes a data set.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spawner.datasets import packages
from spawner.datasets.catalogue import ENTRIES, Entry
from spawner.errors import DatasetError

SUMS = "SHA256SUMS"
ACCEPTED = "licences-accepted.jsonl"
# What a list of checksums or of licences may weigh: far more than any that was written here.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class State:
    """A data set of the catalogue, as it is here.

    Attributes:
        entry: the data set.
        folder: where it is or would be.
        installed: whether it is there.
        checksum: of its list of checksums, which stands for all of it; of its package where it is not installed; or empty.
        accepted: who accepted its licence and when; empty where nobody did or had to.
    """

    entry: Entry
    folder: Path
    installed: bool
    checksum: str
    accepted: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        entry = self.entry
        return {
            "name": entry.name,
            "purpose": entry.purpose,
            "licence": entry.licence,
            "asks_for_acceptance": entry.asks,
            "accepted": self.accepted,
            "size_bytes": entry.size,
            "download_bytes": entry.package.size if entry.package else 0,
            "source": entry.source,
            "installed": self.installed,
            "folder": str(self.folder),
            "sha256": self.checksum,
        }


def listed(folder: Path) -> list[State]:
    """Every data set of the catalogue.

    Args:
        folder: that of the data sets; it need not be there.
    """
    accepted = {line["data_set"]: f"{line['by']}, {line['at']}" for line in _accepted(folder)}
    found = []
    for entry in ENTRIES:
        sums = folder / entry.name / SUMS
        installed = sums.is_file()
        checksum = packages.sha256(sums) if installed else entry.package.sha256 if entry.package else ""
        found.append(State(entry, folder / entry.name, installed, checksum, accepted.get(entry.name, "")))
    return found


def record_acceptance(folder: Path, entry: Entry) -> None:
    """Write down who accepted a licence, when, and which.

    Raises:
        DatasetError: it cannot be written; then nothing may be installed.
    """
    # Who types under sudo is who accepts.
    person = os.environ.get("SUDO_USER") or _login()
    line = {
        "data_set": entry.name,
        "licence": entry.licence,
        "by": f"{person}@{socket.gethostname()}",
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path = folder / ACCEPTED
    try:
        # Writers of the data folder may put a link or a pipe there, and whoever installs is often root.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            os.fchmod(handle, 0o644)
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DatasetError(
            f"The acceptance cannot be recorded in {path} ({error.strerror}), so {entry.name} was not installed.",
            "Mend that, and try again.",
        ) from None


def problems(folder: Path) -> list[str]:
    """What differs between a data set and its checksums, one sentence per file; empty when nothing does."""
    try:
        expected = dict(_sums(folder / SUMS))
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}
    except (OSError, ValueError) as error:
        return [f"{SUMS} cannot be read ({getattr(error, 'strerror', None) or error})"]
    told = [f"{name} is not part of the data set" for name in sorted(found - set(expected))]
    for name, total in expected.items():
        if name not in found:
            told.append(f"{name} is missing")
            continue
        try:
            if packages.sha256(folder / name) != total:
                told.append(f"{name} was changed")
        except OSError as error:
            told.append(f"{name} cannot be read ({error.strerror})")
    return told


def _sums(path: Path) -> Iterator[tuple[str, str]]:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("too big")
    for line in path.read_text("utf-8").splitlines():
        total, gap, name = line.partition("  ")
        if not gap or len(total) != 64:
            raise ValueError(f"not a list of checksums: {line[:60]!r}")
        yield name, total


def _accepted(folder: Path) -> list[dict[str, str]]:
    path = folder / ACCEPTED
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return []
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [{key: str(line[key]) for key in ("data_set", "by", "at")} for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        # A list that cannot be read accepts nothing for anybody, and stops nobody from seeing what is installed.
        return []


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"

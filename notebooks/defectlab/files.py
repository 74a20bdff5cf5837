"""Files that are whole or not there.

Owns writing one file so that a reader sees the old one or the new one, and the sentence for a person when that fails. Never
knows what is in a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; one of that name is replaced.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            # A NAS that says yes and then loses power must not leave an empty file under the good name.
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sentence(error: OSError, folder: Path, what: str, remedy: str) -> str:
    """What to tell a person.

    Args:
        error: what came of writing.
        folder: where it was to be written.
        what: such as "the model".
        remedy: what helps where one may not write, as an order.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {folder} is full, so {what} was not written: free some space and run this again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{folder} cannot be written to by you, so {what} was not written: {remedy}."
    return f"{what[0].upper()}{what[1:]} could not be written to {folder} ({error.strerror or error})."

"""The lab's secrets on disk: a 0700 folder with one 0600 file per secret.

Owns making and reading them. Never logs or prints one, never widens a mode; refuses a folder that others can read.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from pathlib import Path

from spawner.errors import VaultError


def open_folder(folder: Path) -> Path:
    """Make the folder where it is missing, and check that only its owner can enter it.

    Raises:
        VaultError: it cannot be made, or its mode lets others in.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode & 0o777
    except OSError as error:
        raise VaultError(f"The secrets folder {folder} cannot be made ({error.strerror}).") from None
    if mode & 0o077:
        raise VaultError(f"The secrets folder {folder} is open to others (mode {mode:o}).", f"Run: chmod 700 {folder}")
    return folder


def secret(folder: Path, name: str) -> str:
    """Read a secret, or make it (64 hex digits) on first use.

    Raises:
        VaultError: it cannot be read or written.
    """
    path = open_folder(folder) / name
    try:
        if not path.exists():
            _make(path)
        found = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VaultError(f"The secret {path} cannot be used ({error}).") from None
    if not re.fullmatch("[0-9a-f]{64}", found):
        # An empty secret would open what it guards to everyone.
        raise VaultError(f"The secret {path} is not whole.", "Remove the file; a new secret is made at the next start.")
    return found


def _make(path: Path) -> None:
    # Written whole under another name and then linked: nobody ever reads half a secret, and of two processes that start at
    # once one makes it and the other takes what is there.
    handle, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        os.unlink(part)

"""The lab's secrets on disk: a 0700 folder with one 0600 file per secret.

Owns making and reading them. Never logs or prints one, never widens a mode; refuses a folder that others can read.
"""

from __future__ import annotations

import os
import secrets
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
        try:
            # O_EXCL: of two processes that start at once, one makes the secret and the other reads it.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text("ascii").strip()
        with os.fdopen(handle, "w") as file:
            file.write(made := secrets.token_hex(32))
        return made
    except (OSError, UnicodeDecodeError) as error:
        raise VaultError(f"The secret {path} cannot be used ({error}).") from None

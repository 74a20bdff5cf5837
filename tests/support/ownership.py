"""Names for what the tests make on the host's engine, and whose they are.

Owns the names `gpulab-test-<6 hex digits>` and one file per name in the system's temporary folder, locked for as long as the
process lives that took the name, however hard it ends. Never removes anything from an engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "gpulab-test-"
# Exactly six digits: whatever else begins like this has no locked file and is not ours to judge.
_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{6}(?![0-9a-f])")
_held: dict[str, int] = {}


def take_name() -> str:
    """A new name; this process owns it until `give_up_name`, or until it ends."""
    name = f"{PREFIX}{secrets.token_hex(3)}"
    held = os.open(_file(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    fcntl.flock(held, fcntl.LOCK_EX)
    _held[name] = held
    return name


def give_up_name(name: str) -> None:
    """Nothing of this name is left. Idempotent."""
    if (held := _held.pop(name, None)) is not None:
        _file(name).unlink(missing_ok=True)
        os.close(held)


def name_in(text: str) -> str:
    """The name that a container's label, a volume or a network begins with; '' where there is none."""
    found = _NAME.match(text)
    return found[0] if found else ""


def names_taken() -> set[str]:
    """Every name that some process took and did not give up; that process may be gone."""
    return {file.stem for file in Path(tempfile.gettempdir()).glob(f"{PREFIX}*.lock") if name_in(file.stem) == file.stem}


@contextlib.contextmanager
def orphaned(name: str) -> Iterator[bool]:
    """Whether the owner of a name is gone; if so, nobody else clears up the same name within this block."""
    try:
        seen = os.open(_file(name), os.O_RDONLY)
    except FileNotFoundError:
        # A name is locked before anything is made under it.
        yield True
        return
    except OSError:
        yield False
        return
    try:
        fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
        with contextlib.suppress(OSError):
            _file(name).unlink()
    finally:
        os.close(seen)


def _file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{name}.lock"

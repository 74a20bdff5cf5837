"""Asks within a time limit whether a folder answers, so that a dead NAS cannot hang the hub.

Owns the probe and its sentences. Never mounts, makes or repairs anything.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from spawner.errors import MountError

_ADMIN = "Tell your admin: the folder is set in lab.yaml under mounts."


def require_folders(folders: Iterable[Path], seconds: float) -> None:
    """Check that each folder exists and answers.

    The look itself is taken by a child process: a call into a dead NFS mount cannot be interrupted, so the child is left
    to the kernel when the time is over.

    Raises:
        MountError: a folder is missing, is no folder, or did not answer in `seconds`.
    """
    children = [(folder, _look(folder)) for folder in folders]
    for folder, child in children:
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise MountError(f"The folder {folder} did not answer within {seconds:g} s.", _ADMIN) from None
        if code != 0:
            raise MountError(f"The folder {folder} is missing or not a folder.", _ADMIN)


def _look(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/usr/bin/test", "-d", f"{folder}/."],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

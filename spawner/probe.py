"""Asks whether the folders of a start can be used: the NAS within a time limit, and the state folder for free space.

Owns the probes and their sentences. Never mounts, makes or repairs anything; a dead NAS cannot hang the hub through it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from spawner.errors import MountError

# Below this the hub's and the lab's databases are about to fail in the middle of a write; they need a few MB at most.
SPACE_FLOOR = 32 << 20
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


def require_space(folder: Path, floor: int = SPACE_FLOOR) -> None:
    """Check that the file system of a local folder has `floor` bytes free.

    A start that would fill the disk is refused while the databases can still be written.

    Raises:
        MountError: it has not, or the folder cannot be looked at.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MountError(f"The state folder cannot be looked at ({error.strerror}).", "Tell your admin.") from None
    if free < floor:
        raise MountError(
            f"The lab server's disk is full: {free >> 20} MB are left where it keeps its state, and {floor >> 20} are needed.",
            "Tell your admin: free some space under the folder that lab.yaml names as state.",
        )


def _look(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/usr/bin/test", "-d", f"{folder}/."],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

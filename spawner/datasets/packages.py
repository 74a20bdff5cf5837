"""Files of a Python package index, fetched by pip, kept until they are used, and taken apart.

Owns the call of pip and reading archives. No code of a package ever runs: a wheel is only unpacked, and the question that pip
puts to every source distribution is answered by a stand-in of ours. A file whose checksum is not the known one is never kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from spawner.datasets.catalogue import Package
from spawner.errors import DatasetError

_FETCH_SECONDS = 1800
_CHUNK = 1 << 20
# pip asks a source distribution for its metadata by its build backend; this one stands before setuptools' own on the path.
_STAND_IN = '''"""Answers for a source distribution of which only the data are wanted."""
import pathlib


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{stem}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\\nGenerator: gpulab\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return folder.name
'''


def fetched(package: Package, keep: Path) -> Path:
    """The package's file in the folder `keep`: the one that lies there, or a new one.

    Raises:
        DatasetError: the file cannot be had, or is not the known one.
        OSError: it cannot be written.
    """
    kept = keep / package.file
    if kept.is_file() and sha256(kept) == package.sha256:
        return kept
    keep.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=keep) as part:
        _pip(package, Path(part))
        found = Path(part) / "got" / package.file
        if not found.is_file():
            raise DatasetError(f"The package {package.project} could not be fetched: the index has no {package.file}.")
        if sha256(found) != package.sha256:
            raise DatasetError(f"The package {package.project} is not the known one; nothing was installed.")
        os.replace(found, kept)
    return kept


def _pip(package: Package, part: Path) -> None:
    watched = sys.stderr.isatty()
    wanted = part / "wanted.txt"
    wanted.write_text(f"{package.project}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-build-isolation"]
    command += ["--only-binary=:all:" if package.is_wheel else f"--no-binary={package.project}"]
    command += ["--disable-pip-version-check", "--no-input", f"--progress-bar={'on' if watched else 'off'}"]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(wanted), "--dest", str(part / "got")],
            env={**os.environ, **_environment(package, part)},
            stdin=subprocess.DEVNULL,
            # The bar is for the person at the terminal; standard output is the command's answer alone.
            stdout=sys.stderr.fileno() if watched else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatasetError(f"The package {package.project} could not be fetched ({error}).") from None
    if done.returncode != 0:
        if "No space left on device" in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DatasetError(
            f"The package {package.project} could not be fetched ({reason[:300]}).",
            "Check that this server reaches a Python package index; pip's own configuration says which. Then run it again.",
        )


def _environment(package: Package, part: Path) -> dict[str, str]:
    # Temporary files go where the free space was looked at; a pip that knows how goes on with a broken download.
    more = {"TMPDIR": str(part), "PIP_RESUME_RETRIES": "5"}
    if not package.is_wheel:
        backend = part / "stand-in" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        stem = f"{package.project.replace('-', '_')}-{package.version}"
        told = _STAND_IN.format(stem=stem, project=package.project, version=package.version)
        (backend / "build_meta.py").write_text(told)
        more["PYTHONPATH"] = str(backend.parent)
    return more


def members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Every plain file of a wheel or a source distribution, with its content; links and devices are left out.

    Raises:
        DatasetError: it is no archive.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for name in wheel.infolist():
                    if not name.is_dir():
                        with wheel.open(name) as content:
                            yield PurePosixPath(name.filename), content
        else:
            with tarfile.open(archive, "r:gz") as source:
                for member in source:
                    opened = source.extractfile(member) if member.isfile() else None
                    if opened is not None:
                        yield PurePosixPath(member.name), opened
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{archive.name} cannot be unpacked ({str(error)[:200]}); nothing was installed.") from None


def sha256(path: Path) -> str:
    """The checksum of a file, however big it is.

    Raises:
        OSError: it cannot be read.
    """
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()

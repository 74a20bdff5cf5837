"""What the tests take from the host's own package sources: a Debian root with a modern engine, and a static busybox.

Owns the cache of both (made once, used by every later run). Never installs anything on the host, and knows no mirror: its address
comes from apt's configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".lab" / "cache"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "trixie"
PACKAGES = ("ca-certificates", "docker-cli", "docker.io", "iptables")
APPLETS = ("cat", "df", "env", "grep", "id", "ls", "nproc", "sh", "sleep", "touch", "tr")
MIRROR_VARIABLE = "GPULAB_DEBIAN_MIRROR"


def modern_root() -> Path:
    """A Debian root that has a Docker engine with CDI; bootstrapped where the cache has none (half a minute)."""
    return _cached("trixie-engine", " ".join((SUITE, *PACKAGES)), _bootstrap)


def tiny_root() -> Path:
    """A tar of a root file system of a few megabytes: busybox, the user 1000 and the lab's folders."""
    return _cached("tiny-root", "1 " + " ".join(APPLETS), _tiny) / "root.tar"


def _cached(name: str, stamp: str, make: Callable[[Path], None]) -> Path:
    target, building = CACHE / name, CACHE / f"{name}.building"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(CACHE / f"{name}.lock"):
        marker = target / ".gpulab-stamp"
        if not marker.exists() or marker.read_text() != stamp:
            # Whoever built here before was killed: the lock is ours.
            for leftover in (building, target):
                shutil.rmtree(leftover, ignore_errors=True)
            building.mkdir()
            make(building)
            (building / marker.name).write_text(stamp)
            building.rename(target)
    return target


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bootstrap(folder: Path) -> None:
    for needed in (shutil.which("debootstrap"), KEYRING.exists()):
        if not needed:
            pytest.fail("the engine tests need debootstrap and debian-archive-keyring: run `make setup`")
    # debootstrap mounts things in the new root; in a mount namespace of its own none of them can be left behind.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--kill-child", "--fork",
               "debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}",
               SUITE, str(folder), _mirror()]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, **_proxy()}, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        pytest.fail(f"debootstrap of {SUITE} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    shutil.rmtree(folder / "var" / "cache" / "apt", ignore_errors=True)


def _mirror() -> str:
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return mirror
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in targets.stdout.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    pytest.skip(f"needs a Debian mirror for an engine with CDI: apt knows none, and {MIRROR_VARIABLE} is not set")


def _proxy() -> dict[str, str]:
    done = subprocess.run(["apt-config", "shell", "p", "Acquire::http::Proxy"], capture_output=True, text=True, check=False)
    value = done.stdout.strip().removeprefix("p=").strip("'")
    return {"http_proxy": value} if value and value != "DIRECT" else {}


def _tiny(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gpulab-test-") as work:
        for command in (
            ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "busybox-static"],
            ["sh", "-c", "dpkg-deb -x busybox-static_*.deb ."],
        ):
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"busybox-static could not be had from apt: {done.stdout}{done.stderr}")
        binary = next(p for p in Path(work).glob("**/bin/busybox") if p.is_file()).read_bytes()
    with tarfile.open(folder / "root.tar", "w") as tar:
        _add(tar, "bin/busybox", binary, 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\nengineer:x:1000:1000::/home/engineer:/bin/sh\n", 0o644)
        for path, uid in (("tmp", 0), ("home/engineer", 1000), ("workspace/data", 0), ("workspace/models", 0)):
            entry = tarfile.TarInfo(path)
            entry.type, entry.uid, entry.gid = tarfile.DIRTYPE, uid, uid
            entry.mode = 0o1777 if path == "tmp" else 0o755
            tar.addfile(entry)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))

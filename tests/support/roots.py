"""What the tests take from the host's own package sources: Debian roots, a static busybox and a container registry.

Owns the cache of them (made once, used by every later run). Never installs anything on the host, and knows no mirror: its address
comes from apt's configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.apt_archive import KEYRING, debian_mirror, with_apts_proxy

CACHE = Path(__file__).resolve().parents[2] / ".lab" / "cache"
SUITE = "trixie"
PACKAGES = ("ca-certificates", "docker-cli", "docker.io", "iptables")
SERVER = ("ca-certificates", "dbus", "git", "make", "systemd", "systemd-sysv")
APPLETS = ("cat", "df", "env", "grep", "id", "ls", "nproc", "sh", "sleep", "touch", "tr")


def modern_root() -> Path:
    """A Debian root that has a Docker engine with CDI; bootstrapped where the cache has none (half a minute)."""
    return _cached("trixie-engine", " ".join((SUITE, *PACKAGES)), lambda folder: _bootstrap(folder, SUITE, PACKAGES))


def server_root(suite: str) -> Path:
    """A Debian root as a server has it that nobody has touched yet: systemd, git and make; no Python and no engine."""
    return _cached(f"{suite}-server", " ".join((suite, *SERVER)), lambda folder: _bootstrap(folder, suite, SERVER))


def tiny_root() -> Path:
    """A tar of a root file system of a few megabytes: busybox, the user 1000 and the lab's folders."""
    return _cached("tiny-root", "1 " + " ".join(APPLETS), _tiny) / "root.tar"


def registry_program() -> Path:
    """The container registry of the distribution, one static program."""
    return _cached("docker-registry", "1", _registry) / "docker-registry"


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


def _bootstrap(folder: Path, suite: str, packages: tuple[str, ...]) -> None:
    if not shutil.which("debootstrap") or not KEYRING.exists():
        pytest.fail("the engine tests need debootstrap and debian-archive-keyring: run `make setup`")
    mirror = debian_mirror()
    if not mirror:
        pytest.skip("needs a Debian mirror for an engine with CDI: apt knows none, and GPULAB_DEBIAN_MIRROR is not set")
    # debootstrap mounts things in the new root; in a mount namespace of its own none of them can be left behind.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--kill-child", "--fork",
               "debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(packages)}",
               suite, str(folder), mirror, *_script(suite)]  # fmt: skip
    done = subprocess.run(command, env=with_apts_proxy(), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        pytest.fail(f"debootstrap of {suite} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    shutil.rmtree(folder / "var" / "cache" / "apt", ignore_errors=True)


def _script(suite: str) -> list[str]:
    """What an older debootstrap, such as Ubuntu's, needs to know of a release that is younger than itself."""
    scripts = Path("/usr/share/debootstrap/scripts")
    return [] if (scripts / suite).exists() else [str(scripts / "sid")]


def _tiny(folder: Path) -> None:
    with _unpacked("busybox-static") as work:
        binary = next(p for p in work.glob("**/bin/busybox") if p.is_file()).read_bytes()
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


def _registry(folder: Path) -> None:
    with _unpacked("docker-registry") as work:
        shutil.copy(work / "usr" / "bin" / "docker-registry", folder)


@contextlib.contextmanager
def _unpacked(package: str) -> Iterator[Path]:
    """The files of a package, without installing it: this host gets no service and no command that it did not ask for."""
    with tempfile.TemporaryDirectory(prefix="gpulab-test-") as work:
        for command in (
            ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package],
            ["sh", "-c", f"dpkg-deb -x {package}_*.deb ."],
        ):
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{package} could not be had from apt: {done.stdout}{done.stderr}")
        yield Path(work)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))

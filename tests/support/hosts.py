"""Debian hosts for the tests: containers with systemd on a private engine, with a clone of this checkout and nothing else.

Owns their root, what they are told of this host's package sources, boot, commands and end. The addresses of mirrors and indexes
come from this host's own apt, pip and npm configuration at run time; nothing here knows one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.types
import pytest

from tests.support.private_engine import PrivateEngine, private_engine
from tests.support.roots import modern_root, server_root

REPO = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/gpu-lab"
BOOT_SECONDS = 90
# Systemd 256 and newer boot on a host with cgroup v1 only when asked; in a container they read what PID 1 was started with.
INIT = ["/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
PASSED_ON = re.compile(r"(PIP_|NPM_CONFIG_)\w+|\w*_CA_(BUNDLE|CERTS)|SSL_CERT_\w+|(https?|no)_proxy", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit status, its words and how long it took."""

    status: int
    words: str
    seconds: float


class DebianHost:
    """A running host; commands on it run as root in the checkout."""

    def __init__(self, client: docker.DockerClient, container: Any) -> None:
        self.client, self.container = client, container

    def run(self, *command: str, **env: str) -> Said:
        """Run a command to its end."""
        began = time.monotonic()
        inside = {**{k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}, **env}
        done = self.container.exec_run(list(command), workdir=CHECKOUT, environment=inside)
        return Said(done.exit_code, done.output.decode("utf-8", "replace"), time.monotonic() - began)

    def sh(self, script: str) -> str:
        """Run a shell script that has to succeed; what it said."""
        done = self.run("sh", "-ec", script)
        assert done.status == 0, f"{script}\n{done.words}"
        return done.words.strip()

    def reboot(self) -> None:
        """Shut down and boot again, with the disks as they are."""
        self.container.restart(timeout=BOOT_SECONDS)
        _wait_until_booted(self)


@contextlib.contextmanager
def outward_engine() -> Iterator[PrivateEngine]:
    """A modern engine whose containers reach what this host reaches."""
    with private_engine(modern_root(), {}, (), outward=True, visible=_local_indexes()) as engine:
        yield engine


@contextlib.contextmanager
def debian_host(engine: PrivateEngine, suite: str) -> Iterator[DebianHost]:
    """Boot a host of a Debian release; it is gone when the block ends."""
    _hand_over(engine.shared, suite)
    mounts = [docker.types.Mount(str(path), str(path), type="bind", read_only=True) for path in _local_indexes()]
    mounts.append(docker.types.Mount("/srv/from-host", str(engine.shared), type="bind", read_only=True))
    # An engine inside cannot lay its overlays on an overlay.
    mounts += [docker.types.Mount(path, None, type="volume") for path in ("/var/lib/docker", "/var/lib/containerd")]
    client = docker.DockerClient(engine.base_url, timeout=3600)
    container = client.containers.create(
        _image(client, suite), INIT, hostname=suite, privileged=True, cgroupns="private", mounts=mounts,
        tmpfs={"/run": "", "/run/lock": ""}, environment={"container": "docker"}, stop_signal="SIGRTMIN+3", tty=True,
    )  # fmt: skip
    try:
        container.start()
        host = DebianHost(client, container)
        _wait_until_booted(host)
        _settle_in(host)
        yield host
    finally:
        container.remove(force=True, v=True)
        client.close()


def _image(client: docker.DockerClient, suite: str) -> str:
    name = f"gpulab-test:{suite}-server"
    if not client.images.list(name):
        with subprocess.Popen(["tar", "-C", str(server_root(suite)), "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            client.api.import_image_from_data(tar.stdout, repository="gpulab-test", tag=f"{suite}-server")
    return name


def _wait_until_booted(host: DebianHost) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        host.container.reload()
        if host.container.status != "running":
            break
        state = host.container.exec_run(["systemctl", "is-system-running"]).output.decode("utf-8", "replace").strip()
        if state in {"running", "degraded"}:
            return
        time.sleep(0.2)
    log = host.container.logs(tail=40).decode("utf-8", "replace")
    pytest.fail(f"the host did not boot ({host.container.status}, systemd says '{state}'):\n{log}")


def _settle_in(host: DebianHost) -> None:
    """Give the host this host's package sources and a clone of this checkout, as an administrator would."""
    done = host.container.exec_run(["sh", "-ec", f"""
        cp -a /srv/from-host/etc/. /etc/
        cp /srv/from-host/certificates/* /usr/local/share/ca-certificates/ 2>/dev/null || true
        update-ca-certificates >/dev/null 2>&1
        git clone -q /srv/from-host/checkout.bundle {CHECKOUT}
    """])  # fmt: skip
    assert done.exit_code == 0, done.output.decode("utf-8", "replace")


def _hand_over(folder: Path, suite: str) -> None:
    shutil.rmtree(folder / "etc", ignore_errors=True)
    apt = folder / "etc" / "apt"
    (apt / "apt.conf.d").mkdir(parents=True)
    (apt / "sources.list").write_text(_apt_sources(suite))
    settings = _said("apt-config", "dump")
    kept = [line for line in settings.splitlines() if re.match(r"Acquire::(https?::|Check-)", line)]
    (apt / "apt.conf.d" / "99from-host").write_text("\n".join(kept) + "\n")
    for path in ("/etc/pip.conf", "/etc/xdg/pip", "/etc/npmrc"):
        if Path(path).exists():
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-rL", path, str(target)], check=True)
    (folder / "certificates").mkdir(exist_ok=True)
    for file in Path("/usr/local/share/ca-certificates").glob("**/*.crt"):
        shutil.copy(file, folder / "certificates")
    subprocess.run(
        ["git", "-C", str(REPO), "bundle", "create", "-q", str(folder / "checkout.bundle"), "HEAD"],
        check=True,
        capture_output=True,
    )


def _apt_sources(suite: str) -> str:
    """The Debian archives that apt uses here, for another release of Debian."""
    here = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    listing = _said("apt-get", "indextargets", "--format", "$(CREATED_BY)|$(COMPONENT)|$(ORIGIN)|$(RELEASE)|$(REPO_URI)")
    lines = set()
    for target in listing.splitlines():
        kind, component, origin, release, address = target.split("|", 4)
        if (kind, component, origin) == ("Packages", "main", "Debian") and here:
            lines.add(f"deb {address} {release.replace(here[1], suite)} main\n")
    if not lines:
        pytest.skip("needs a Debian mirror: apt on this host knows none")
    return "".join(sorted(lines))


def _local_indexes() -> list[Path]:
    """Folders of this host that pip takes packages from."""
    words = _said(sys.executable, "-m", "pip", "config", "list")
    found = {Path(path) for path in re.findall(r"(?:file://|(?<=[' ]))(/[^\s']+)", words)}
    return sorted({path.parent if path.name == "simple" else path for path in found if path.is_dir()})


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout

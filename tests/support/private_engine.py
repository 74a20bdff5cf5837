"""A Docker engine of the tests' own, in namespaces of its own, beside the host's default engine.

Owns starting it, waiting until it answers, its tiny image, and ending it with everything it started. Never touches the host's
engine, its bridge, its firewall rules or its folders.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests

from spawner.model import Gpu

SCRIPT = Path(__file__).with_name("private_engine.sh")
CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60
STOP_SECONDS = 20
CLONE_NEWNET = 0x40000000
PREFIX = "gpulab-test-engine-"
# Where slirp4netns hands questions for names on to this host's own resolver.
RESOLVER = "10.0.2.3"


@dataclass
class PrivateEngine:
    """A running engine.

    Attributes:
        folder: its files; `shared` inside is seen by the engine under the same path, for bind mounts.
        gpus: the GPUs whose devices it can hand out, not marked simulated: to the lab they are real.
        dockerd: process id of dockerd as this host sees it.
    """

    folder: Path
    gpus: tuple[Gpu, ...]
    process: subprocess.Popen[bytes]
    dockerd: int = 0
    images: set[str] = field(default_factory=set)

    @property
    def base_url(self) -> str:
        return f"unix://{self.folder / 'socket' / 'docker.sock'}"

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        """A plain client, for what the lab's own code does not do."""
        client = docker.APIClient(self.base_url, version="1.41", timeout=30)
        try:
            yield client
        finally:
            client.close()

    def load(self, tar: Path, tag: str, env: Mapping[str, str] | None = None) -> str:
        """Import a root file system as an image with these variables baked in, once per engine; its name."""
        name = f"gpulab-test:{tag}"
        if name in self.images:
            return name
        with self.client() as client:
            client.import_image_from_data(
                tar.read_bytes(), repository="gpulab-test", tag=tag, changes=[f"ENV {k}={v}" for k, v in (env or {}).items()]
            )
        self.images.add(name)
        return name

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Within this block dockerd does not answer, as under a full disk or a swapping host."""
        # 0 would be this process and all that it started.
        assert self.dockerd, "dockerd was not found among the engine's processes"
        os.kill(self.dockerd, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.dockerd, signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd, as `systemctl stop docker` or, with SIGKILL, as a crash; everything around it stays for `start`."""
        assert self.dockerd, "dockerd was not found among the engine's processes"
        self._down.touch()
        os.kill(self.dockerd, number)
        deadline = time.monotonic() + STOP_SECONDS
        while _descendant(self.process.pid, "dockerd"):
            assert time.monotonic() < deadline, f"dockerd does not end:\n{self.log_tail()}"
            time.sleep(0.05)
        self.dockerd = 0

    def start(self) -> None:
        """Start a stopped dockerd again, and wait until it answers."""
        self._down.unlink(missing_ok=True)
        _wait(self)

    @property
    def _down(self) -> Path:
        return self.folder / "socket" / "down"

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Within this block this thread, and what it starts, is on the engine's network: it reaches labs and is reached."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as home, open(f"/proc/{self.dockerd}/ns/net") as there:
            try:
                _enter(libc, there.fileno())
                yield
            finally:
                _enter(libc, home.fileno())

    def print_evidence(self) -> None:
        """Print what a person needs to understand a failure: containers, their logs, dockerd's last lines."""
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException), self.client() as client:
            for found in client.containers(all=True):
                print(f"--- container {found['Names']} {found['Status']} {found['Labels']}")
                print(client.logs(found["Id"], tail=20).decode("utf-8", "replace"))
        print(f"--- last lines of {self.log}\n{self.log_tail()}")


@contextlib.contextmanager
def private_engine(
    root: Path,
    settings: Mapping[str, Any],
    gpus: tuple[Gpu, ...],
    extra: Mapping[str, str] | None = None,
    *,
    outward: bool = False,
    visible: Iterable[Path] = (),
) -> Iterator[PrivateEngine]:
    """Run dockerd from `root` until the block ends.

    Args:
        root: the root file system that has dockerd; not written to.
        settings: content of its daemon.json.
        gpus: what it is prepared to hand out.
        extra: absolute path → text of files laid over the root; those in a `bin` folder are executable.
        outward: whether it and its containers reach what this host reaches; else it has a loopback and nothing more.
        visible: folders of this host that the engine sees under the same path, for bind mounts.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a Docker engine in mount, network and process namespaces of its own")
    _sweep()
    if outward:
        extra = {**(extra or {}), "/etc/resolv.conf": f"nameserver {RESOLVER}\n"}
    with _own_folder() as folder:
        _prepare(folder, {**settings, "cgroup-parent": f"/{folder.name}"}, extra or {})
        with (folder / "dockerd.log").open("wb") as log:
            process = subprocess.Popen(
                # The first two make an end of this process, however hard, the end of everything inside.
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork", "--pid", "--mount", "--net",
                 "--ipc", "--propagation", "private", "sh", str(SCRIPT)],
                env={**os.environ, "ROOT": str(root), "WORK": str(folder), "VISIBLE": "\n".join(map(str, visible))},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        engine = PrivateEngine(folder, gpus, process)
        try:
            _wait(engine)
            with _way_out(engine) if outward else contextlib.nullcontext():
                yield engine
        finally:
            _end(engine)


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    # Locked before it gets the name that `_sweep` looks for, so that a living engine's folder is never taken for a left one.
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(made.with_name(made.name[1:]))
        try:
            yield folder
        finally:
            _forget(folder)


def _sweep() -> None:
    """Remove what runs left behind that were killed; their processes ended with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _forget(folder)


def _forget(folder: Path) -> None:
    for top in (*CGROUPS.glob(folder.name), *CGROUPS.glob(f"*/{folder.name}")):
        for path in (*sorted(top.rglob("*/"), key=lambda p: len(p.parts), reverse=True), top):
            with contextlib.suppress(OSError):
                path.rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, settings: Mapping[str, Any], extra: Mapping[str, str]) -> None:
    # The labs run as an unprivileged user and must be able to walk to what is shared with them.
    folder.chmod(0o755)
    for name in ("new", "scratch", "shared", "socket", "data", "extra"):
        (folder / name).mkdir()
    (folder / "daemon.json").write_text(json.dumps(settings))
    for path, text in extra.items():
        file = folder / "extra" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if file.parent.name == "bin" else 0o644)


def _wait(engine: PrivateEngine) -> None:
    deadline = time.monotonic() + START_SECONDS
    with engine.client() as client:
        while True:
            with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
                if client.ping():
                    break
            if engine.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the test's Docker engine does not start:\n{engine.log_tail()}")
            time.sleep(0.05)
    engine.dockerd = _descendant(engine.process.pid, "dockerd")


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the network namespace could not be entered")


@contextlib.contextmanager
def _way_out(engine: PrivateEngine) -> Iterator[None]:
    """A network in user space between the engine's namespace and this host: no bridge and no firewall rule here."""
    if not shutil.which("slirp4netns"):
        pytest.fail("an engine that reaches package mirrors needs slirp4netns: run `make setup`")
    seen, told = os.pipe()
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback",
         f"--ready-fd={told}", str(engine.process.pid), "tap0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[told],
    )  # fmt: skip
    os.close(told)
    try:
        with open(seen, "rb") as ready:
            if not ready.read(1):
                pytest.fail(f"slirp4netns does not start: {process.communicate()[1].decode('utf-8', 'replace')}")
        yield
    finally:
        process.kill()
        process.communicate()


def _descendant(pid: int, name: str) -> int:
    # A process may end while it is looked at.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
            if found := _descendant(int(child), name):
                return found
    return 0


def _end(engine: PrivateEngine) -> None:
    process = engine.process
    if engine.dockerd and process.poll() is None:
        # dockerd stops its containers, and with them their cgroups go; killed, it would leave those behind.
        for number in (signal.SIGCONT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine.dockerd, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait(timeout=STOP_SECONDS)

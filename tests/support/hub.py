"""A real hub process on a lab.yaml of its own, for the suites that need one.

Owns starting, killing and cleaning up; never patches anything inside the hub.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import requests
import yaml

from spawner import labfile
from spawner.container import LABEL_LAB
from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.model import Lease, Presence
from tests.support.hub_log import unexpected_tracebacks
from tests.support.ownership import give_up_name, name_in, names_taken, orphaned, take_name

REPO = Path(__file__).resolve().parents[2]
HUB_CONFIG = str(REPO / "jupyterhub_config.py")
GPU_A = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
GPU_B = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
# A settler looks for its hub every few seconds, and may be in a question to an engine that does not answer.
SETTLER_SECONDS = 40


@dataclass(frozen=True)
class LabFiles:
    """A folder with lab.yaml and the data folders it names."""

    folder: Path
    name: str

    @property
    def yaml(self) -> Path:
        return self.folder / "lab.yaml"

    def edit(self, **changes: Any) -> None:
        """Change keys of lab.yaml; a dotted path is written with `__`."""
        data = yaml.safe_load(self.yaml.read_text())
        for path, value in changes.items():
            section = data
            *parents, last = path.split("__")
            for part in parents:
                section = section.setdefault(part, {})
            section[last] = value
        self.yaml.write_text(yaml.safe_dump(data, sort_keys=False))


def free_ports() -> int:
    """A port p such that p and p + 1 are free on loopback now, and no outgoing connection takes them before they are used."""
    for _ in range(200):
        # Below the range that the kernel gives to outgoing connections.
        port = random.randrange(20_000, 32_000, 2)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no two neighbouring free ports were found on loopback")


def make_lab_files(folder: Path) -> LabFiles:
    """Write a lab.yaml derived from the shipped one: own names, ports and folders, two simulated GPUs, small profiles."""
    name = take_name()
    data = yaml.safe_load((REPO / "lab.yaml").read_text())
    data["name"] = name
    data["hub"]["port"] = free_ports()
    data["network"]["name"] = name
    data["gpus"] = {
        "source": "simulated",
        "simulated": [
            {"uuid": GPU_A, "model": "Simulated 24 GB", "memory": "24g"},
            {"uuid": GPU_B, "model": "Simulated 24 GB", "memory": "24g"},
        ],
    }
    data["limits"]["stop_seconds"] = 3
    for profile in ("cpu", "gpu-1", "gpu-2"):
        data["profiles"][profile].update(memory="1g", cpus=1)
    # The most that lab.yaml takes: the profile that no host of the tests can give.
    data["profiles"]["reference"]["cpus"] = 1024
    for kind in ("datasets", "models"):
        path = folder / "nas" / kind
        path.mkdir(parents=True)
        # The labs run as lab.yaml's uid; the folder of the tests belongs to whoever runs them.
        path.chmod(0o777)
        data["mounts"][kind]["path"] = str(path)
    files = LabFiles(folder, name)
    files.yaml.write_text(yaml.safe_dump(data, sort_keys=False))
    return files


class HubProcess:
    """One hub: start, REST, kill, stop."""

    def __init__(self, files: LabFiles, engine: Engine, configuration: str = HUB_CONFIG) -> None:
        self.files = files
        self.configuration = configuration
        self.engine = engine
        self.log = files.folder / "hub.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.session = requests.Session()

    # --- process ----

    @property
    def config(self) -> Any:
        return labfile.load(self.files.yaml)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.hub.port}"

    def start(self, seconds: float = 60) -> None:
        """Start the hub and wait until its API answers."""
        env = {**os.environ, "GPULAB_CONFIG": str(self.files.yaml), "PYTHONUNBUFFERED": "1"}
        env.pop("GPULAB_PORT", None)
        env.pop("GPULAB_ADDRESS", None)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # The hub of a test run that is killed ends with it.
                [which("setpriv"), "--pdeathsig", "TERM", sys.executable, "-m", "jupyterhub", "-f", self.configuration],
                cwd=self.files.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(self.answering, seconds, "the hub to answer")

    def answering(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            return self.session.get(f"{self.url}/hub/api", timeout=2).ok
        except requests.RequestException:
            return False

    def wait_for(self, condition: Any, seconds: float, what: str) -> Any:
        """Ask until the condition holds; fails with the last log lines when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := condition():
                return result
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the hub ended while waiting for {what}:\n{self.log_tail()}")
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:g} s for {what}:\n{self.log_tail()}")

    def kill(self) -> None:
        """kill -9 of the hub alone; proxy and labs stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def terminate(self) -> None:
        """Stop the hub as an admin does; labs stay."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)

    def stop(self) -> None:
        """End everything that this hub started."""
        self.terminate()
        pid_file = self.files.folder / ".lab" / "state" / "proxy.pid"
        if pid_file.exists():
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        self.session.close()

    def assert_nothing_went_wrong_unnoticed(self) -> None:
        """After the stop: no process of this hub is left, and its log has no unexpected traceback."""
        deadline = time.monotonic() + SETTLER_SECONDS
        while (left := self._settlers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"settlers outlived their hub: {left}"
        found = unexpected_tracebacks(self.log.read_text("utf-8", "replace") if self.log.exists() else "")
        assert not found, "the hub logged a traceback:\n" + "\n\n".join(found)

    def _settlers(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if "spawner.services.settler" in words and str(self.files.yaml.resolve()) in words:
                    found.append(int(folder.name))
        return found

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:]) if self.log.exists() else ""

    def print_evidence(self) -> None:
        print(f"--- last lines of the hub's log\n{self.log_tail()}")
        for found in self.containers():
            print(f"--- container {found['Names']} {found['Status']} {found['Labels']}")
            try:
                print(self.engine.client.logs(found["Id"], tail=40).decode("utf-8", "replace"))
            except docker.errors.APIError as error:
                print(error)

    # --- REST ----

    def service_token(self) -> str:
        return (self.files.folder / ".lab" / "secrets" / "cli_token").read_text().strip()

    def token(self, name: str, *, admin: bool = False) -> str:
        """Create the person and mint a token, as `gpulab token` does."""
        headers = {"Authorization": f"token {self.service_token()}"}
        minted = self.session.post(
            f"{self.url}/hub/api/gpulab/sign-in/{name}", headers=headers, json={"admin": admin}, timeout=20
        )
        assert minted.ok, minted.text
        return str(minted.json()["token"])

    def api(self, method: str, path: str, token: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 60)
        return self.session.request(method, f"{self.url}/hub/api{path}", headers={"Authorization": f"token {token}"}, **kwargs)

    def start_lab(self, user: str, token: str, profile: str, server: str = "", wait: float = 90) -> dict[str, Any]:
        """Start a lab over REST and wait until it is ready; its server model."""
        answer = self.post_lab(user, token, {"profile": profile}, server)
        assert answer.status_code in (201, 202), answer.text
        return self.wait_ready(user, token, server, wait)

    def post_lab(self, user: str, token: str, options: Any, server: str = "") -> requests.Response:
        return self.api("POST", self._server_path(user, server), token, json={"user_options": options})

    def wait_ready(self, user: str, token: str, server: str = "", wait: float = 90) -> dict[str, Any]:
        def ready() -> dict[str, Any] | None:
            model = self.server_model(user, token, server)
            return model if model and model["ready"] else None

        found: dict[str, Any] = self.wait_for(ready, wait, f"the lab of {user} to be ready")
        return found

    def server_model(self, user: str, token: str, server: str = "") -> dict[str, Any] | None:
        answer = self.api("GET", f"/users/{user}", token)
        assert answer.ok, answer.text
        model: dict[str, Any] | None = answer.json()["servers"].get(server)
        return model

    def stop_lab(self, user: str, token: str, server: str = "", wait: float = 60) -> None:
        """Stop a lab over REST and wait until its GPUs are given back."""
        answer = self.api("DELETE", self._server_path(user, server), token)
        assert answer.status_code in (202, 204), answer.text
        self.wait_for(
            lambda: not [x for x in self.leases() if (x.holder.user, x.holder.server) == (user, server)],
            wait,
            f"the lease of {user} to be released",
        )
        self.wait_for(lambda: not (self.server_model(user, token, server) or {}).get("pending"), wait, "the stop to finish")

    @staticmethod
    def _server_path(user: str, server: str) -> str:
        return f"/users/{user}/servers/{server}" if server else f"/users/{user}/server"

    # --- facts ----

    def leases(self) -> tuple[Lease, ...]:
        ledger = Ledger.open(self.config.ledger_url)
        try:
            return ledger.active()
        finally:
            ledger.close()

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.engine.client.containers(all=True, filters={"label": f"{LABEL_LAB}={self.files.name}"})
        return found

    def run_inside(self, container_id: str, *command: str) -> str:
        """Run a command in a running container as its own user; the output."""
        made = self.engine.client.exec_create(container_id, list(command))
        output: bytes = self.engine.client.exec_start(made["Id"])
        code = self.engine.client.exec_inspect(made["Id"])["ExitCode"]
        text = output.decode("utf-8", "replace")
        assert code == 0, f"{command} ended with {code}: {text}"
        return text

    def assert_agreement(self, seconds: float = 30) -> None:
        """Wait until every lease has exactly its container and every container its lease."""

        def agree() -> bool:
            present = self.engine.survey(self.files.name)
            active = {lease.id for lease in self.leases()}
            return set(present) == active and set(present.values()) <= {Presence.RUNNING}

        self.wait_for(agree, seconds, "ledger and engine to agree")


@contextlib.contextmanager
def running_hub(
    files: LabFiles, engine: Engine, failed: Callable[[], bool] = lambda: False, configuration: str = HUB_CONFIG
) -> Iterator[HubProcess]:
    """A hub process for a while; afterwards it is ended, and must have left neither processes nor tracebacks.

    Args:
        files: its lab.yaml and folders.
        engine: the engine to look at; the hub finds it by itself.
        failed: whether a test failed that raised nothing into this block, as with fixtures.
        configuration: JupyterHub's configuration file.
    """
    hub = HubProcess(files, engine, configuration)
    try:
        try:
            hub.start()
            yield hub
        except BaseException:
            hub.print_evidence()
            raise
        if failed() or not hub.answering():
            hub.print_evidence()
    finally:
        hub.stop()
    hub.assert_nothing_went_wrong_unnoticed()


def sweep(engine: Engine) -> None:
    """Remove what test runs left behind that were killed; what belongs to a run that lives is not touched."""
    client = engine.client
    texts = [found["Labels"].get(LABEL_LAB, "") for found in client.containers(all=True, filters={"label": LABEL_LAB})]
    texts += [volume["Name"] for volume in client.volumes()["Volumes"] or []]
    texts += [network["Name"] for network in client.networks()]
    texts += [tag for image in client.images() for tag in image["RepoTags"] or []]
    for name in sorted((names_taken() | {name_in(text) for text in texts}) - {""}):
        with orphaned(name) as left:
            if left:
                remove_docker_objects(engine, name)


def remove_docker_objects(engine: Engine, name: str) -> None:
    """Remove containers, volumes, network and images of a test lab."""
    client = engine.client
    for found in client.containers(all=True, filters={"label": f"{LABEL_LAB}={name}"}):
        try:
            client.remove_container(found["Id"], force=True, v=True)
        except docker.errors.NotFound:
            continue
    for volume in client.volumes(filters={"name": f"{name}-home-"})["Volumes"] or []:
        client.remove_volume(volume["Name"], force=True)
    engine.remove_network(name)
    for tag in [tag for image in client.images(name=name) for tag in image["RepoTags"] or []]:
        client.remove_image(tag, force=True)
    give_up_name(name)


def which(program: str) -> str:
    """Path of a program that a test needs; the failure names it."""
    found = shutil.which(program)
    assert found, f"the program {program!r} is missing; run `make setup`"
    return found

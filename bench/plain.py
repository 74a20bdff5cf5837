"""The peers: plain JupyterHub with DockerSpawner, and the bare container without any hub.

Owns their processes, network and containers, from the first to the last. Never touches what it did not make.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import requests
from docker.errors import NotFound

from bench.samples import AGAIN, FIRST
from bench.subject import START_SECONDS, BenchError, HubApi
from tests.support.hub import REPO, free_ports

CONFIG = Path(__file__).with_name("plain_jupyterhub_config.py")
PROXY = REPO / ".proxy" / "node_modules" / ".bin"
HUB_SECONDS = 60
END_SECONDS = 30
ASK_SECONDS = 0.02


class Network:
    """A bridge network of the run."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.gateway = ""

    def open(self) -> None:
        """Make it."""
        made = self.client.networks.create(self.name, driver="bridge", check_duplicate=True)
        made.reload()
        self.gateway = made.attrs["IPAM"]["Config"][0]["Gateway"].split("/")[0]

    def close(self) -> None:
        """Remove it, and the containers that are still in it."""
        for container in self.client.containers.list(all=True, filters={"network": self.name}):
            container.remove(force=True, v=True)
        for network in self.client.networks.list(names=[self.name]):
            network.remove()


class Plain:
    """JupyterHub and DockerSpawner as they come."""

    name = "plain"
    occasions: tuple[str, ...] = (FIRST, AGAIN)

    def __init__(self, client: Any, folder: Path, network: Network, image: str) -> None:
        self.client = client
        self.folder = folder
        self.network = network
        self.image = image
        self.port = free_ports()
        self.log = folder / "hub.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.token = secrets.token_hex(32)
        self.api = HubApi(f"http://127.0.0.1:{self.port}", {"": self.token}, {})

    def open(self) -> None:
        """Start the hub and wait until it answers.

        Raises:
            BenchError: it does not come up.
        """
        env = {
            **os.environ,
            "PATH": f"{PROXY}:{os.environ['PATH']}",
            "BENCH_URL": self.api.url,
            "BENCH_PROXY_URL": f"http://127.0.0.1:{self.port + 1}",
            "BENCH_GATEWAY": self.network.gateway,
            "BENCH_NETWORK": self.network.name,
            "BENCH_IMAGE": self.image,
            "BENCH_TOKEN": self.token,
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + HUB_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(BenchError):
                self.api.call("GET", "/", timeout=2)
                return
            time.sleep(0.1)
        raise BenchError(f"The plain hub did not come up:\n{self.log_tail()}")

    def close(self) -> None:
        """End the hub, which ends its proxy; the network's end takes what containers are left."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log_tail(self, lines: int = 40) -> str:
        """The hub's last words."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:]) if self.log.exists() else ""

    def admit(self, users: Sequence[str]) -> None:
        """Make the users."""
        self.api.call("POST", "/users", json={"usernames": list(users)})

    def start(self, user: str) -> None:
        """Start the user's server."""
        self.api.start(user)

    def stop(self, user: str) -> None:
        """Stop the user's server; its container stays, as DockerSpawner's default is."""
        self.api.stop(user)

    def containers(self, users: Collection[str]) -> dict[str, str]:
        """User → id of her container."""
        return {user: str(container.id) for user, container in self._containers(users).items()}

    def roots(self) -> list[int]:
        """The hub; its proxy is below it."""
        return [self.process.pid] if self.process else []

    def forget(self, users: Collection[str]) -> None:
        """Remove the containers that DockerSpawner would resume."""
        for container in self._containers(users, stopped=True).values():
            container.remove(force=True, v=True)

    def _containers(self, users: Collection[str], stopped: bool = False) -> dict[str, Any]:
        found = self.client.containers.list(all=stopped, filters={"network": self.network.name})
        names = {container.name.removeprefix("jupyter-"): container for container in found}
        return {user: names[user] for user in users if user in names}


class Floor:
    """`docker run` of an image until a Jupyter server answers in it: what no hub can undercut with that image."""

    occasions: tuple[str, ...] = (FIRST,)

    def __init__(self, client: Any, network: Network, image: str, name: str) -> None:
        self.client = client
        self.network = network
        self.image = image
        self.name = name

    def admit(self, users: Sequence[str]) -> None:
        """Nothing to do."""

    def start(self, user: str) -> None:
        """Run the container and ask until the server answers."""
        command = ["jupyter", "server", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
        container = self.client.containers.run(self.image, command, name=self._name(user), network=self.network.name, detach=True)
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://{address}:8888/api", timeout=10).ok:
                    return
            time.sleep(ASK_SECONDS)
        raise BenchError(f"The bare server of {user} did not answer within {START_SECONDS} s.")

    def stop(self, user: str) -> None:
        """Stop and remove the container."""
        container = self.client.containers.get(self._name(user))
        container.stop()
        container.remove(v=True)

    def containers(self, users: Collection[str]) -> dict[str, str]:
        """User → id of her container."""
        return {user: str(self.client.containers.get(self._name(user)).id) for user in users}

    def roots(self) -> list[int]:
        """There is no hub."""
        return []

    def forget(self, users: Collection[str]) -> None:
        """Remove what an interruption left."""
        for user in users:
            with contextlib.suppress(NotFound):
                self.client.containers.get(self._name(user)).remove(force=True, v=True)

    def _name(self, user: str) -> str:
        return f"{self.network.name}-{user}"

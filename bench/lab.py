"""This lab as a subject: a hub of its own on a lab.yaml derived from the shipped one.

Owns what differs from the shipped lab.yaml. Never touches the checkout's own lab.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from bench.samples import AGAIN, FIRST
from bench.subject import HubApi
from spawner.container import LABEL_LAB, LABEL_USER
from spawner.engine import Engine
from tests.support.hub import REPO, HubProcess, LabFiles, make_lab_files, remove_docker_objects

PROFILE = "cpu"
# Eight labs at once must fit a machine of 16 GB.
MEMORY = "1g"


class Lab:
    """This lab, with the shipped profile `cpu` at less memory."""

    name = "lab"
    occasions: tuple[str, ...] = (FIRST, AGAIN)

    def __init__(self, folder: Path, run: str, image: str) -> None:
        self.files = _lab_files(folder, f"gpulab-bench-{run}", image)
        self.engine = Engine()
        self.hub = HubProcess(self.files, self.engine)
        self.tokens: dict[str, str] = {}
        self.api = HubApi(self.hub.url, self.tokens, {"profile": PROFILE})

    def open(self) -> None:
        """Start the hub and wait until it answers."""
        self.hub.start()

    def close(self) -> None:
        """End the hub and remove everything it made in the engine."""
        self.hub.stop()
        remove_docker_objects(self.engine, self.files.name)
        self.engine.close()

    def log_tail(self) -> str:
        """The hub's last words."""
        return self.hub.log_tail()

    def admit(self, users: Sequence[str]) -> None:
        """Mint a token for each."""
        self.tokens.update({user: self.hub.token(user) for user in users})

    def start(self, user: str) -> None:
        """Start the profile's lab."""
        self.api.start(user)

    def stop(self, user: str) -> None:
        """Stop the lab; the hub answers after the container is removed and the lease released."""
        self.api.stop(user)

    def containers(self, users: Collection[str]) -> dict[str, str]:
        """User → id of her lab's container."""
        found = self.engine.client.containers(filters={"label": f"{LABEL_LAB}={self.files.name}"})
        ids = {str(container["Labels"].get(LABEL_USER)): str(container["Id"]) for container in found}
        return {user: ids[user] for user in users if user in ids}

    def roots(self) -> list[int]:
        """The hub; proxy and settler are below it."""
        return [self.hub.process.pid] if self.hub.process else []

    def forget(self, users: Collection[str]) -> None:
        """Nothing: stopped labs leave no container, and homes go with the run."""


def _lab_files(folder: Path, name: str, image: str) -> LabFiles:
    shipped = yaml.safe_load((REPO / "lab.yaml").read_text())
    made = make_lab_files(folder)
    # The tests' lab.yaml is made for many small labs; what is measured is the shipped one.
    made.edit(
        name=name,
        image=image,
        network__name=name,
        limits__stop_seconds=shipped["limits"]["stop_seconds"],
        profiles__cpu__cpus=min(shipped["profiles"][PROFILE]["cpus"], os.cpu_count() or 1),
        profiles__cpu__memory=MEMORY,
    )
    return LabFiles(folder, name)

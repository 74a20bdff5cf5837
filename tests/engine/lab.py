"""A lab without a hub on a private engine: real lab.yaml, real rendering, real engine calls.

Owns building leases and looking into the containers they become. Never decides what a container should have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import docker.errors
import yaml

from spawner import labfile
from spawner.container import LABEL_LAB, render
from spawner.engine import Engine
from spawner.model import ContainerSpec, Gpu, Holder, Lease, LeaseState
from tests.support.private_engine import PrivateEngine
from tests.support.roots import tiny_root

REPO = Path(__file__).resolve().parents[2]
MEMORY, SHM, PIDS, CPUS = 96 << 20, 24 << 20, 70, 0.5
PORT = 8888
T = TypeVar("T")


def eventually(ask: Callable[[], T], holds: Callable[[T], bool], seconds: float = 20) -> T:
    """Ask until the answer holds; the last answer, held or not."""
    deadline = time.monotonic() + seconds
    while not holds(answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@dataclass(frozen=True)
class Inside:
    """A lab's container, looked at from inside."""

    engine: Engine
    id: str
    lease: Lease
    spec: ContainerSpec

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command as the lab's own user: exit code and output."""
        made = self.engine.client.exec_create(self.id, list(command))
        output: bytes = self.engine.client.exec_start(made["Id"])
        return int(self.engine.client.exec_inspect(made["Id"])["ExitCode"]), output.decode("utf-8", "replace")

    def says(self, *command: str) -> str:
        """The output of a command that must succeed."""
        code, output = self.run(*command)
        assert code == 0, f"{command} ended with {code}: {output}"
        return output

    def devices(self) -> set[str]:
        """Names of NVIDIA's device nodes of GPUs that are there and can be opened."""
        found = [name for name in self.says("ls", "/dev").split() if name.startswith("nvidia") and name[6:].isdigit()]
        return {name for name in found if self.says("cat", f"/dev/{name}") == ""}

    def own_environment(self) -> dict[str, str]:
        """Variables of the container's first process, after everything that the engine and its hooks did."""
        return dict(entry.partition("=")[::2] for entry in self.says("cat", "/proc/1/environ").split("\0") if entry)

    def declared_environment(self) -> dict[str, str]:
        """Variables that the container was made with; each `docker exec` starts from them."""
        declared = self.engine.client.inspect_container(self.id)["Config"]["Env"]
        return dict(entry.partition("=")[::2] for entry in declared)

    def cgroup(self, controller: str, old: str, new: str) -> str:
        """A value of the container's own cgroup: file `old` of a version 1 host, `new` of a version 2 host."""
        return self.says("sh", "-c", f"cat /sys/fs/cgroup/{controller}/{old} 2>/dev/null || cat /sys/fs/cgroup/{new}").strip()


class EngineLab:
    """A lab on an engine; `close` removes what it made."""

    def __init__(self, private: PrivateEngine, name: str) -> None:
        self.private = private
        self.name = name
        self.image = private.load(tiny_root(), "tiny")
        self.baked_image = private.load(tiny_root(), "bakes-all", {"NVIDIA_VISIBLE_DEVICES": "all"})
        self.folder = private.shared / name
        self.config = self._config()
        self.engine = self.connect()
        self.facts = self.engine.facts()
        self.engine.ensure_network(self.name, self.name)

    def connect(self, **seconds: float) -> Engine:
        """Another connection to the engine, with time limits of its own."""
        return Engine(self.private.base_url, **seconds)

    def _config(self) -> Any:
        data = yaml.safe_load((REPO / "lab.yaml").read_text())
        data.update(name=self.name, image=self.image, network={"name": self.name})
        for kind in ("datasets", "models"):
            path = self.folder / kind
            path.mkdir(parents=True)
            path.chmod(0o777)
            data["mounts"][kind]["path"] = str(path)
        for profile in data["profiles"].values():
            profile.update(cpus=CPUS, memory=f"{MEMORY >> 20}m", shm=f"{SHM >> 20}m", pids=PIDS)
        file = self.folder / "lab.yaml"
        file.write_text(yaml.safe_dump(data))
        return labfile.load(file)

    def spec(self, *gpus: Gpu, user: str = "ana", image: str = "", data_writable: bool = False) -> tuple[Lease, ContainerSpec]:
        """A bound lease of these GPUs, and its rendered container."""
        profile = self.config.profiles[f"gpu-{len(gpus)}" if gpus else "cpu"]
        lease = Lease(
            id=secrets.token_hex(16), holder=Holder(user, secrets.token_hex(3)), profile=profile.key,
            gpus=tuple(gpu.uuid for gpu in gpus), state=LeaseState.BOUND, created=datetime.now(timezone.utc),
        )  # fmt: skip
        config = dataclasses.replace(self.config, image=image or self.image)
        return lease, render(config, profile, lease, self.private.gpus, self.facts, {}, data_writable=data_writable)

    def create(self, *gpus: Gpu, command: Sequence[str] = ("sleep", "3600"), **how: Any) -> Inside:
        """Create the container of a lease and leave it there."""
        lease, spec = self.spec(*gpus, **how)
        return Inside(self.engine, self.engine.create(spec, command, PORT), lease, spec)

    def start(self, *gpus: Gpu, **how: Any) -> Inside:
        """Create and start the container of a lease."""
        inside = self.create(*gpus, **how)
        self.engine.start(inside.id)
        return inside

    def close(self) -> None:
        with self.private.client() as client:
            for found in client.containers(all=True, filters={"label": f"{LABEL_LAB}={self.name}"}):
                with contextlib.suppress(docker.errors.NotFound):
                    client.remove_container(found["Id"], force=True, v=True)
            for volume in client.volumes(filters={"name": f"{self.name}-home-"})["Volumes"] or []:
                client.remove_volume(volume["Name"], force=True)
        self.engine.remove_network(self.name)
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)

"""Fixtures of the notebooks' tests.

tools   pytest and Hypothesis for the lab image's Python, from the host's lock, as a folder to mount
lab     runs a command in a fresh lab image, as a lab would be: no network, the engineer's user, two CPUs
volume  makes a Docker volume that the engineer can write to; it is gone after the module's tests
elpv    the real solar cell images, fetched once
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from spawner import datasets, labfile
from tests.support.hub import make_lab_files

REPO = Path(__file__).resolve().parents[2]
IMAGE = "gpulab/pytorch:latest"
# What runs inside the image is collected there and not here: this Python has no NumPy and no PyTorch.
collect_ignore = ["in_image"]
TOOLS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis", "sortedcontainers")

Lab = Callable[..., tuple[int, str]]
Volume = Callable[[str], str]


def locked(lock: str, names: tuple[str, ...], python: tuple[int, int]) -> str:
    """The entries of these packages in a lock, for that Python."""
    found: list[str] = []
    taking = False
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            requirement, _, marker = line.removesuffix("\\").partition(";")
            older = "< '3.11'" in marker and python >= (3, 11)
            taking = requirement.split("==")[0].strip() in names and not older
        if taking and not line.lstrip().startswith("#"):
            found.append(line)
    return "\n".join(found) + "\n"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    lock = folder / "tools.lock"
    lock.write_text(locked((REPO / "requirements" / "dev.lock").read_text(), TOOLS, (3, 11)))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    for platform in ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"):
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), "-r", str(lock)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.from_env(timeout=1200)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def lab(client: docker.DockerClient) -> Lab:
    def run(*command: str, **more: Any) -> tuple[int, str]:
        options: dict[str, Any] = {
            "name": f"gpulab-test-{secrets.token_hex(6)}",
            "user": "1000:1000",
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "cpu_period": 100_000,
            "cpu_quota": 200_000,
            "mem_limit": "4g",
            "shm_size": "1g",
            **more,
        }
        container = client.containers.create(IMAGE, list(command), **options)
        try:
            container.start()
            code = int(container.wait(timeout=1200)["StatusCode"])
            return code, container.logs().decode("utf-8", "replace")
        finally:
            container.remove(force=True, v=True)

    return run


@pytest.fixture(scope="module")
def volume(client: docker.DockerClient) -> Iterator[Volume]:
    made: list[Any] = []

    def make(what: str) -> str:
        made.append(client.volumes.create(f"gpulab-test-{secrets.token_hex(6)}-{what}"))
        return str(made[-1].name)

    yield make
    for one in made:
        one.remove(force=True)


@pytest.fixture(scope="session")
def elpv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetched as `gpulab data get elpv` does, into a data sets' folder; returns that folder."""
    config = labfile.load(make_lab_files(tmp_path_factory.mktemp("lab")).yaml)

    def no_container(*_args: object, **_options: object) -> tuple[int, str]:
        raise AssertionError("ELPV needs no container")

    said = datasets.get("elpv", config, no_container, accept_licence=datasets.ELPV_LICENCE)
    assert "not for commercial use" in said
    return config.mounts.datasets

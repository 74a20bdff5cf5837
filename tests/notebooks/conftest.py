"""Fixtures of the notebooks' tests.

tools   pytest and Hypothesis for the lab image's Python, from the host's lock, as a folder to mount
lab     runs a command in a fresh container of the lab image
fetched installs a data set of the catalogue, once
elpv    the folder with the real solar cell images
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import pytest

from spawner import datasets, labfile
from tests.notebooks import image
from tests.support.hub import make_lab_files

# What runs inside the image is collected there and not here: this Python has no NumPy and no PyTorch.
collect_ignore = ["in_image"]
TOOLS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis", "sortedcontainers")

Lab = Callable[..., tuple[int, str]]


def locked(lock: str, names: tuple[str, ...]) -> str:
    """The entries of these packages in a lock, for Python 3.11."""
    found: list[str] = []
    taking = False
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            requirement, _, marker = line.removesuffix("\\").partition(";")
            taking = requirement.split("==")[0].strip() in names and "< '3.11'" not in marker
        if taking and not line.lstrip().startswith("#"):
            found.append(line)
    return "\n".join(found) + "\n"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    lock = folder / "tools.lock"
    lock.write_text(locked((image.REPO / "requirements" / "dev.lock").read_text(), TOOLS))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    for platform in ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"):
        command += ["--platform", platform]
    command += ["--target", str(folder / "site"), "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.from_env(timeout=image.MOST_SECONDS)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def lab(client: docker.DockerClient) -> Lab:
    return partial(image.run, client)


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Installs a data set of the catalogue as `gpulab data get` does, once; the folder that holds it, as labs see it."""
    config = labfile.load(make_lab_files(tmp_path_factory.mktemp("lab")).yaml)

    def no_container(*_args: object, **_options: object) -> tuple[int, str]:
        raise AssertionError("A data set from a package needs no container")

    def get(name: str) -> Path:
        said = datasets.get(name, config, no_container, accept_licence=datasets.entry(name).licence)
        assert said.startswith(f"{name}: ")
        return config.mounts.datasets

    return get


@pytest.fixture(scope="session")
def elpv(fetched: Callable[[str], Path]) -> Path:
    """The folder of data sets, with the solar cells in it."""
    return fetched("elpv")

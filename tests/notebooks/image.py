"""Commands in a fresh container of the lab image, limited as a lab is: no network, the engineer's user, two CPUs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import nbformat

REPO = Path(__file__).resolve().parents[2]
IMAGE = "gpulab/pytorch:latest"
PREDICTIVE = "gpulab/predictive:latest"
IN_IMAGE = {str(REPO / "tests" / "notebooks" / "in_image"): {"bind": "/tests", "mode": "ro"}}
LIMITS: dict[str, Any] = {
    "user": "1000:1000",
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "cpu_period": 100_000,
    "cpu_quota": 200_000,
    "mem_limit": "4g",
    "shm_size": "1g",
}
MOST_SECONDS = 1200


def run(client: docker.DockerClient, *command: str, **more: Any) -> tuple[int, str]:
    """Exit code and output of a command; the container is gone afterwards."""
    options = {"name": f"gpulab-test-{secrets.token_hex(6)}", **LIMITS, **more}
    container = client.containers.create(options.pop("image", IMAGE), list(command), **options)
    try:
        container.start()
        code = int(container.wait(timeout=MOST_SECONDS)["StatusCode"])
        return code, container.logs().decode("utf-8", "replace")
    finally:
        container.remove(force=True, v=True)


@contextmanager
def volumes(client: docker.DockerClient, *names: str) -> Iterator[list[str]]:
    """Docker volumes for a while; mounted where the image has a folder of the engineer's, they are the engineer's too."""
    made: list[Any] = []
    try:
        for name in names:
            made.append(client.volumes.create(f"gpulab-test-{secrets.token_hex(6)}-{name}"))
        yield [volume.name for volume in made]
    finally:
        for volume in made:
            volume.remove(force=True)


def execute(
    client: docker.DockerClient, name: str, *changes: str, mounts: dict[str, Any] | None = None, smoke: bool, **more: Any
) -> nbformat.NotebookNode:
    """Execute a notebook of the image; an error in a cell is in its metadata, and so are time, memory and figures.

    Args:
        client: the engine.
        name: the notebook's file name.
        changes: pairs of a text in one cell and what to write there instead.
        mounts: volumes as docker takes them.
        smoke: the short trial run.
        more: other limits, as docker takes them.
    """
    environment = {"GPULAB_SMOKE": "1" if smoke else "", "JUPYTERHUB_USER": "ana", "GPULAB_PROFILE": "cpu"}
    environment |= more.pop("environment", {})
    code, said = run(
        client,
        *("python", "/tests/execute.py", f"/opt/gpulab/notebooks/{name}", *changes),
        volumes={**IN_IMAGE, **(mounts or {})},
        environment=environment,
        **more,
    )
    assert code == 0, said[-4000:]
    return nbformat.reads(said.strip().splitlines()[-1], as_version=4)

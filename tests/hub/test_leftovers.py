"""What a killed test run leaves on the engine is removed by the next; what belongs to a living one is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from spawner.container import LABEL_LAB
from spawner.engine import Engine
from tests.support.hub import REPO, remove_docker_objects, sweep

RUN = "import sys; from tests.support.ownership import take_name; print(take_name(), flush=True); sys.stdin.read()"


@pytest.fixture
def other_run() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def left(engine: Engine, name: str) -> set[str]:
    client = engine.client
    found = {"container"} if client.containers(all=True, filters={"label": f"{LABEL_LAB}={name}"}) else set()
    found |= {"volume"} if client.volumes(filters={"name": f"{name}-home-"})["Volumes"] else set()
    found |= {"network"} if client.networks(names=[name]) else set()
    return found | ({"image"} if client.images(name=name) else set())


def test_only_what_has_no_living_owner_is_swept(engine: Engine, other_run: subprocess.Popen[str]):
    assert other_run.stdout
    name = other_run.stdout.readline().strip()
    client = engine.client
    try:
        client.create_volume(f"{name}-home-ana")
        made = client.create_container("gpulab/pytorch:latest", ["true"], labels={LABEL_LAB: name})
        client.commit(made["Id"], repository=name, tag="kept")
        engine.ensure_network(name, name)
        sweep(engine)
        assert left(engine, name) == {"container", "volume", "network", "image"}
        other_run.kill()
        other_run.wait(10)
        sweep(engine)
        assert left(engine, name) == set()
    finally:
        remove_docker_objects(engine, name)

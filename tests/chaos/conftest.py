"""Fixtures of the chaos suite.

chaos   one hub on the host's engine behind a watched relay, with a bystander; tests kill and restart it
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spawner.engine import Engine
from tests.chaos.world import LIMITS, Bystander, Chaos
from tests.conftest import OUTCOME
from tests.support import tiny_lab
from tests.support.hub import make_lab_files, remove_docker_objects, running_hub
from tests.support.watched_relay import WatchedRelay


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, engine: Engine, request: pytest.FixtureRequest) -> Iterator[Chaos]:
    files = make_lab_files(tmp_path_factory.mktemp("lab"))
    try:
        files.edit(image=tiny_lab.load(engine.client, files.name), **LIMITS)
        with WatchedRelay(files.folder / "engine.sock") as relay, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", relay.url)
            with running_hub(files, engine, lambda: request.node.stash.get(OUTCOME, False)) as hub:
                ana = tiny_lab.Cues(hub.config.mounts.models, "ana")
                world = Chaos(hub, relay, Bystander.start(hub, "bo"), ana)
                yield world
                world.ready(running=False)
    finally:
        remove_docker_objects(engine, files.name)

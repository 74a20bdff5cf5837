"""The engine ends, crashes and freezes under a running hub: what still runs goes on, what ended is settled and told.

The engine is one of the tests' own; the hub is on its network.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.engine import Engine
from spawner.model import LeaseState
from spawner.services.settler import PERIOD_SECONDS
from tests.chaos.world import LIMITS, SLACK_SECONDS, Bystander, every_day, patience_of
from tests.conftest import OUTCOME
from tests.support import tiny_lab
from tests.support.hub import HubProcess, LabFiles, make_lab_files, running_hub
from tests.support.ownership import give_up_name
from tests.support.private_engine import PrivateEngine, private_engine

# One round sees that a lab ended and leaves its reason to be read, the next removes it.
SETTLED_SECONDS = 2 * PERIOD_SECONDS + SLACK_SECONDS


@dataclass(frozen=True)
class EngineWorld:
    """A hub on an engine of the tests' own."""

    private: PrivateEngine
    hub: HubProcess
    files: LabFiles


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[EngineWorld]:
    """Its parameter: whether the engine's labs live on while it is away."""
    if not shutil.which("dockerd"):
        pytest.skip("needs a dockerd installed on this host, whose engine it would be")
    with ExitStack() as stack:
        private = stack.enter_context(private_engine(Path("/"), {"live-restore": request.param}, ()))
        stack.enter_context(private.network())
        folder = private.shared / "lab"
        folder.mkdir()
        files = make_lab_files(folder)
        stack.callback(give_up_name, files.name)
        engine = Engine(private.base_url)
        stack.callback(engine.close)
        files.edit(image=tiny_lab.load(engine.client, files.name), **LIMITS)
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("DOCKER_HOST", private.base_url)
        hub = stack.enter_context(running_hub(files, engine, lambda: request.node.stash.get(OUTCOME, False)))
        yield EngineWorld(private, hub, files)


LIVES_ON = pytest.mark.parametrize("world", [True], indirect=True, ids=["live-restore"])
ENDS = pytest.mark.parametrize("world", [False], indirect=True, ids=["no-live-restore"])
CRASHED, STOPPED = pytest.param(signal.SIGKILL, id="crashed"), pytest.param(signal.SIGTERM, id="stopped")


@LIVES_ON
@pytest.mark.parametrize("how", every_day(CRASHED, full=[STOPPED]))
def test_engine_that_is_away_for_a_while_ends_no_lab_that_lives_on(world: EngineWorld, how: signal.Signals):
    hub = world.hub
    bystander = Bystander.start(hub, "bo")
    ana = hub.token("ana")
    world.private.stop(how)
    unknown = "the engine does not answer: "
    hub.wait_for(lambda: unknown in hub.log.read_text(), 30, "a round of settlement without an engine")
    refused = hub.post_lab("ana", ana, {"profile": "gpu-1", "wait": False})
    assert refused.status_code == 503, refused.text
    assert "The Docker engine does not answer" in refused.json()["message"]
    assert [lease for lease in hub.leases() if lease.state is LeaseState.BOUND] == [bystander.lease]
    world.private.start()
    hub.assert_agreement(SETTLED_SECONDS)
    bystander.assert_undisturbed()
    hub.start_lab("ana", ana, "gpu-1")
    hub.stop_lab("ana", ana)
    hub.assert_agreement()


@LIVES_ON
def test_engine_and_hub_that_crash_together_lose_no_lab(world: EngineWorld):
    hub = world.hub
    bystander = Bystander.start(hub, "bo")
    world.private.stop(signal.SIGKILL)
    hub.kill()
    hub.start()
    assert bystander.lease in hub.leases()
    world.private.start()
    hub.assert_agreement(SETTLED_SECONDS)
    bystander.assert_undisturbed()


@ENDS
@pytest.mark.parametrize("how", every_day(STOPPED, full=[CRASHED]))
def test_engine_that_takes_its_labs_with_it_gives_their_gpus_back_and_says_so(world: EngineWorld, how: signal.Signals):
    hub = world.hub
    tokens = {user: hub.token(user) for user in ("ana", "bo")}
    for user, token in tokens.items():
        hub.start_lab(user, token, "gpu-1")
    world.private.stop(how)
    assert len(hub.leases()) == 2, "an engine that does not answer frees nothing"
    world.private.start()
    hub.wait_for(lambda: not hub.leases() and not hub.containers(), SETTLED_SECONDS, "the ended labs to be settled")
    for user, token in tokens.items():
        hub.wait_for(
            lambda u=user, t=token: hub.server_model(u, t) is None, SETTLED_SECONDS, f"the lab of {user} to be shown as ended"
        )
    assert hub.log.read_text().count("server stopped, with exit code") == 2
    for user, token in tokens.items():
        hub.start_lab(user, token, "gpu-1")
    hub.assert_agreement()


@LIVES_ON
def test_frozen_engine_ends_nothing_and_what_was_asked_meanwhile_is_settled_once_it_thaws(world: EngineWorld):
    hub = world.hub
    bystander = Bystander.start(hub, "bo")
    ana = hub.token("ana")
    hub.start_lab("ana", ana, "cpu")
    with world.private.stalled():
        stopping = hub.api("DELETE", "/users/ana/server", ana, timeout=60)
        assert stopping.status_code in (202, 204), stopping.text
        refused = hub.post_lab("cyd", hub.token("cyd"), {"profile": "gpu-1", "wait": False})
        assert refused.status_code in (202, 503), refused.text
        hub.wait_for(lambda: "the engine does not answer: " in hub.log.read_text(), 30, "a round without an answer")
        assert bystander.lease in hub.leases()
        assert [x for x in hub.leases() if x.holder.user == "ana"], "a lease is released on proof only"
    waiting = patience_of(hub)
    allowed = SETTLED_SECONDS + max(waiting.stop, waiting.flight).total_seconds()
    hub.wait_for(lambda: hub.leases() == (bystander.lease,), allowed, "what was asked of the frozen engine to be settled")
    hub.assert_agreement(SETTLED_SECONDS)
    bystander.assert_undisturbed()
    hub.start_lab("cyd", hub.token("cyd"), "gpu-1")
    hub.assert_agreement()


@LIVES_ON
def test_hub_that_restarts_before_a_frozen_engine_keeps_the_labs(world: EngineWorld):
    hub = world.hub
    bystander = Bystander.start(hub, "bo")
    with world.private.stalled():
        hub.kill()
        hub.start(seconds=90)
        assert hub.leases() == (bystander.lease,)
        assert (hub.server_model("bo", bystander.token) or {}).get("ready") is not None, "the hub forgot the lab"
    hub.wait_ready("bo", bystander.token, wait=60)
    hub.assert_agreement(SETTLED_SECONDS)
    bystander.assert_undisturbed()

"""The clock of the host is set, forward and back, under hub and settler: no running lab ends, and no GPU is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.container import LABEL_LAB, LABEL_LEASE
from spawner.engine import Engine
from spawner.model import Presence
from spawner.services.settler import PERIOD_SECONDS
from tests.chaos.world import LIMITS, SLACK_SECONDS, Bystander, every_day, in_background, patience_of
from tests.conftest import OUTCOME
from tests.support import tiny_lab
from tests.support.clock import Clock
from tests.support.hub import HubProcess, LabFiles, running_hub

CONFIGURATION = str(Path(__file__).with_name("jupyterhub_config.py"))
HOUR, DAY = 3600, 86400


@dataclass(frozen=True)
class Clocked:
    """A hub whose clock a test sets; ana has had a lab before, whose lease is released."""

    hub: HubProcess
    clock: Clock
    ana: tiny_lab.Cues
    token: str
    released: str

    def nothing_pending(self) -> bool:
        return not (self.hub.server_model("ana", self.token) or {}).get("pending")

    def await_settlement(self) -> None:
        """Wait until the settler has looked at everything once more: only it ends a container that outlived its lease."""
        client = self.hub.engine.client
        labels = {LABEL_LAB: self.hub.files.name, LABEL_LEASE: self.released}
        client.start(client.create_container(self.hub.config.image, labels=labels)["Id"])
        wait = 2 * PERIOD_SECONDS + SLACK_SECONDS
        self.hub.wait_for(lambda: self.hub.engine.presence(self.released) is Presence.ABSENT, wait, "a round of settlement")


@pytest.fixture
def clocked(
    lab_files: LabFiles, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Clocked]:
    clock = Clock.build(tmp_path)
    for name, value in clock.env.items():
        monkeypatch.setenv(name, value)
    lab_files.edit(image=tiny_lab.load(engine.client, lab_files.name), **{**LIMITS, "limits__http_seconds": 60})
    with running_hub(lab_files, engine, lambda: request.node.stash.get(OUTCOME, False), CONFIGURATION) as hub:
        ana = tiny_lab.Cues(hub.config.mounts.models, "ana")
        token = hub.token("ana")
        hub.start_lab("ana", token, "cpu")
        (lease,) = hub.leases()
        hub.stop_lab("ana", token)
        ana.forget()
        yield Clocked(hub, clock, ana, token, lease.id)


FORWARD, BACK = pytest.param(DAY, id="day-forward"), pytest.param(-DAY, id="day-back")
LESS = [pytest.param(HOUR, id="hour-forward"), pytest.param(-HOUR, id="hour-back")]


@pytest.mark.parametrize("seconds", every_day(FORWARD, full=[BACK, *LESS]))
def test_set_clock_ends_no_running_lab_and_loses_no_gpu(clocked: Clocked, seconds: int):
    hub = clocked.hub
    bystander = Bystander.start(hub, "bo")
    for ahead in (seconds, 0):
        # A start that is under way may be given up, and must then leave nothing.
        clocked.ana.set("hold")
        asking = in_background(lambda: hub.post_lab("ana", clocked.token, {"profile": "gpu-1"}))
        hub.wait_for(lambda: len(hub.containers()) == 2, 20, "the container of the start")
        clocked.clock.set(ahead)
        clocked.await_settlement()
        bystander.assert_undisturbed()
        clocked.ana.forget()
        asking.join(60)
        hub.wait_for(clocked.nothing_pending, 60, "the start to end, either way")
        hub.assert_agreement(PERIOD_SECONDS + SLACK_SECONDS + patience_of(hub).stop.total_seconds())
        if hub.server_model("ana", clocked.token) is None:
            hub.start_lab("ana", clocked.token, "gpu-1")
        hub.stop_lab("ana", clocked.token)
        hub.assert_agreement()
        bystander.assert_undisturbed()


@pytest.mark.parametrize("seconds", every_day(BACK, full=[FORWARD]))
def test_hub_that_comes_back_with_another_clock_keeps_the_labs_and_settles_the_rest(clocked: Clocked, seconds: int):
    hub = clocked.hub
    bystander = Bystander.start(hub, "bo")
    hub.start_lab("ana", clocked.token, "gpu-1")
    clocked.ana.set("save")
    asking = in_background(lambda: hub.api("DELETE", "/users/ana/server", clocked.token))
    hub.wait_for(lambda: clocked.ana.seen("ending"), 20, "the lab to be asked to end")
    hub.kill()
    asking.join(30)
    clocked.clock.set(seconds)
    hub.start()
    hub.wait_for(lambda: hub.leases() == (bystander.lease,), PERIOD_SECONDS + SLACK_SECONDS, "the stop to be finished")
    hub.assert_agreement()
    bystander.assert_undisturbed()
    clocked.ana.forget()
    hub.wait_for(lambda: hub.server_model("ana", clocked.token) is None, 20, "the lab to be shown as ended")
    hub.start_lab("ana", clocked.token, "gpu-1")
    hub.assert_agreement()

"""Containers that somebody else removes, at every stage of a lab: told to who waits, settled, and the next start works."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from spawner.container import LABEL_LEASE
from spawner.services.settler import PERIOD_SECONDS
from tests.chaos.test_kills import END, INSPECT, START
from tests.chaos.world import SLACK_SECONDS, Chaos
from tests.support.watched_relay import Phase


def remove(chaos: Chaos) -> None:
    """What an admin does who tidies up by hand."""
    lease = chaos.lease()
    assert lease
    (found,) = (c for c in chaos.hub.containers() if c["Labels"][LABEL_LEASE] == lease.id)
    chaos.hub.engine.client.remove_container(found["Id"], force=True)


def assert_settled(chaos: Chaos) -> None:
    """One round sees it and notes the end, the next one gives the GPUs back."""
    chaos.hub.wait_for(lambda: not chaos.lease(), 2 * PERIOD_SECONDS + SLACK_SECONDS, "the removed lab to be settled")
    chaos.hub.assert_agreement()
    chaos.ready(running=True)
    chaos.bystander.assert_undisturbed()


def test_removed_before_it_was_started(chaos: Chaos):
    chaos.ready(running=False)
    token = chaos.token
    trap = chaos.catch(START[3], 1, Phase.BEFORE)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(chaos.hub.post_lab, "ana", token, {"profile": "gpu-1"})
        chaos.held(trap)
        remove(chaos)
        trap.let_go()
        refused = asked.result()
    assert refused.status_code == 500, refused.text
    assert "refused to start the container" in refused.json()["message"]
    assert_settled(chaos)


def test_removed_before_it_answered(chaos: Chaos):
    chaos.ready(running=False)
    token = chaos.token
    chaos.ana.set("hold")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(chaos.hub.post_lab, "ana", token, {"profile": "gpu-1"})
        chaos.relay.wait_for_call(chaos.pid, INSPECT, chaos.settled)
        remove(chaos)
        refused = asked.result()
    assert refused.status_code == 500, refused.text
    assert "container is gone" in refused.json()["message"] or "ended at once" in refused.json()["message"]
    assert_settled(chaos)


def test_removed_in_the_middle_of_its_stop(chaos: Chaos):
    chaos.ready(running=True)
    trap = chaos.catch(END, 1, Phase.BEFORE)
    chaos.ask_stop()
    chaos.held(trap)
    remove(chaos)
    trap.let_go()
    assert_settled(chaos)


def test_removed_while_it_ran(chaos: Chaos):
    chaos.ready(running=True)
    remove(chaos)
    chaos.hub.wait_for(lambda: chaos.hub.server_model("ana", chaos.token) is None, 30, "the hub to notice")
    assert_settled(chaos)


def test_removed_while_the_hub_was_away(chaos: Chaos):
    chaos.ready(running=True)
    chaos.kill()
    remove(chaos)
    chaos.recover(survives=False)

"""kill -9 of the hub at every moment of a start and of a stop.

The moments are not drawn: they are the calls that a start and a stop make to the engine, each before the engine heard of it and
after the engine answered unheard; and between them what ledger, hub's database, proxy and lab can hold up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from spawner.model import LeaseState
from tests.chaos.world import Chaos, locked, patience_of
from tests.support.watched_relay import Phase

LOOK = "GET /containers/json by lease"
LIST = "GET /containers/json by lab"
CREATE = "POST /containers/create"
INSPECT = "GET /containers/*/json"
END, REMOVE = "POST /containers/*/stop", "DELETE /containers/*"
# Everything that an undisturbed start and stop ask of the engine, in this order. Looks whether labs live come in between: they
# are shared by all labs and good for a moment.
START = ("GET /info", LIST, CREATE, "POST /containers/*/start", INSPECT)
STOP = (LOOK, END, REMOVE, LOOK)


def numbered(calls: tuple[str, ...]) -> list[tuple[str, int]]:
    """Each call with its number among those of its kind."""
    seen: Counter[str] = Counter()
    found = []
    for call in calls:
        seen[call] += 1
        found.append((call, seen[call]))
    return found


def name(value: object) -> str:
    return str(value).replace("GET ", "").replace("POST ", "").replace("/containers/", "").replace("/", "").replace(" ", "-")


def moments(calls: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(index, call, number, phase, id=f"{index}-{name(call)}-{phase}")
        for index, (call, number) in enumerate(numbered(calls))
        for phase in Phase
    ]


def test_moments_are_all_that_a_start_and_a_stop_ask_of_the_engine(chaos: Chaos):
    chaos.ready(running=False)
    chaos.ask_start()
    chaos.hub.wait_ready("ana", chaos.token)
    assert tuple(call for call in chaos.calls() if call not in (LOOK, LIST)) == tuple(call for call in START if call != LIST)
    assert LIST in chaos.calls()
    chaos.ready(running=True)
    chaos.ask_stop()
    chaos.hub.wait_for(lambda: not chaos.lease(), 20, "the stop")
    assert tuple(call for call in chaos.calls() if call != LIST) == STOP


@pytest.mark.parametrize(("index", "call", "number", "phase"), moments(START))
def test_kill_in_a_start(chaos: Chaos, index: int, call: str, number: int, phase: Phase):
    chaos.ready(running=False)
    trap = chaos.catch(call, number, phase)
    chaos.ask_start()
    chaos.held(trap)
    chaos.kill()
    chaos.recover(survives=False)


@pytest.mark.parametrize(("index", "call", "number", "phase"), moments(STOP))
def test_kill_in_a_stop(chaos: Chaos, index: int, call: str, number: int, phase: Phase):
    chaos.ready(running=True)
    trap = chaos.catch(call, number, phase)
    chaos.ask_stop()
    chaos.held(trap)
    chaos.kill()
    chaos.recover(survives=False)


# --- between the calls of a start


def test_kill_while_a_start_waits_for_the_ledger(chaos: Chaos):
    chaos.ready(running=False)
    with locked(chaos.ledger_database):
        chaos.ask_start()
        chaos.relay.wait_for_call(chaos.pid, LIST, chaos.settled)
        chaos.kill()
    assert chaos.lease() is None
    chaos.recover(survives=False)


def wait_until_it_waits(chaos: Chaos) -> None:
    """A start whose lab runs and does not answer yet; the hub looks every second whether it lives."""
    chaos.ready(running=False)
    chaos.ana.set("hold")
    chaos.ask_start()
    chaos.relay.wait_for_call(chaos.pid, INSPECT, chaos.settled)
    looked = len(chaos.calls())
    chaos.hub.wait_for(lambda: len(chaos.calls()) > looked, 20, "the hub to look at the starting lab")


def test_kill_while_the_hub_waits_for_the_labs_answer(chaos: Chaos):
    wait_until_it_waits(chaos)
    chaos.kill()
    chaos.recover(survives=False)


def test_kill_after_the_labs_answer_before_the_ledger_knows(chaos: Chaos):
    wait_until_it_waits(chaos)
    with locked(chaos.ledger_database):
        chaos.ana.let_go("hold")
        chaos.hub.wait_for(lambda: chaos.ana.seen("answered"), 20, "the lab to answer the hub")
        chaos.kill()
    lease = chaos.lease()
    assert lease
    assert lease.state is LeaseState.STARTING
    chaos.recover(survives=False)


def test_kill_after_the_ledger_knows_before_the_hubs_database(chaos: Chaos):
    wait_until_it_waits(chaos)
    with locked(chaos.hub_database):
        chaos.ana.let_go("hold")
        chaos.hub.wait_for(lambda: (lease := chaos.lease()) and lease.state is LeaseState.BOUND, 20, "the lease to be bound")
        chaos.kill()
    assert "lease_id" not in str(chaos.hub_knows("state"))
    chaos.recover(survives=False)


def test_kill_after_the_hubs_database_knows_before_the_proxy_does(chaos: Chaos):
    wait_until_it_waits(chaos)
    proxy = int((chaos.hub.files.folder / ".lab" / "state" / "proxy.pid").read_text())
    os.kill(proxy, signal.SIGSTOP)
    try:
        chaos.ana.let_go("hold")
        chaos.hub.wait_for(lambda: "lease_id" in str(chaos.hub_knows("state")), 20, "the hub's database to know the lab")
        chaos.hub.kill()
    finally:
        os.kill(proxy, signal.SIGCONT)
    chaos.kill()
    chaos.recover(survives=True)


def test_creation_that_arrives_after_the_kill_is_ended_before_its_gpu_is_given_to_others(chaos: Chaos):
    chaos.ready(running=False)
    trap = chaos.catch(CREATE, 1, Phase.BEFORE)
    chaos.ask_start()
    chaos.held(trap)
    chaos.hub.kill()
    chaos.hub.start()
    (lease,) = chaos.hub.wait_for(lambda: [x for x in chaos.hub.leases() if x.absent_since], 20, "settlement to see no container")
    assert (lease.state, lease.in_flight) == (LeaseState.DRAINING, True)
    other = chaos.hub.post_lab("cyd", chaos.hub.token("cyd"), {"profile": "gpu-1", "wait": False})
    assert other.status_code == 409, other.text
    trap.let_go()
    patience = patience_of(chaos.hub)
    chaos.hub.wait_for(lambda: not chaos.lease(), patience.flight.total_seconds() + 15, "the late container to be settled")
    chaos.hub.kill()
    chaos.recover(survives=False)


# --- between the calls of a stop


def test_kill_while_a_stop_waits_for_the_ledger(chaos: Chaos):
    chaos.ready(running=True)
    token = chaos.token
    with locked(chaos.ledger_database):
        chaos.ask_stop()
        chaos.hub.wait_for(lambda: (chaos.hub.server_model("ana", token) or {}).get("pending") == "stop", 20, "the stop to begin")
        chaos.kill()
    # A wish that nobody noted: the lab goes on, and its owner asks again.
    chaos.recover(survives=True)


def test_kill_while_a_lab_saves(chaos: Chaos):
    chaos.ready(running=True)
    chaos.ana.set("save")
    chaos.ask_stop()
    chaos.hub.wait_for(lambda: chaos.ana.seen("ending"), 20, "the lab to be asked to end")
    chaos.kill()
    chaos.recover(survives=False)


def test_kill_after_the_container_is_gone_before_the_ledger_knows(chaos: Chaos):
    chaos.ready(running=True)
    trap = chaos.catch(REMOVE, 1, Phase.AFTER)
    chaos.ask_stop()
    chaos.held(trap)
    with locked(chaos.ledger_database):
        trap.let_go()
        chaos.hub.wait_for(lambda: chaos.hub_knows("server_id") is None, 20, "the hub's database to forget the server")
        chaos.kill()
    chaos.recover(survives=False)


def test_kill_after_the_release_before_the_hubs_database_knows(chaos: Chaos):
    chaos.ready(running=True)
    trap = chaos.catch(LOOK, STOP.count(LOOK), Phase.AFTER)
    chaos.ask_stop()
    chaos.held(trap)
    with locked(chaos.hub_database):
        trap.let_go()
        chaos.hub.wait_for(lambda: not chaos.lease(), 20, "the release")
        chaos.kill()
    assert "lease_id" in str(chaos.hub_knows("state"))
    chaos.recover(survives=False)

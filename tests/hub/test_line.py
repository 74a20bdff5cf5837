"""The waiting line on a real hub: a request waits, its turn comes, the lab starts by itself; restarts lose nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.model import Holder, LeaseState
from spawner.records import Ticket, TicketState
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.web import Browser


@contextlib.contextmanager
def ledger_of(hub: HubProcess) -> Iterator[Ledger]:
    opened = Ledger.open(hub.config.ledger_url)
    try:
        yield opened
    finally:
        opened.close()


def tickets(hub: HubProcess) -> tuple[Ticket, ...]:
    with ledger_of(hub) as ledger:
        return ledger.tickets()


def shown(hub: HubProcess, token: str) -> list[dict[str, Any]]:
    answer = hub.api("GET", "/gpus/tickets", token)
    assert answer.ok, answer.text
    found: list[dict[str, Any]] = answer.json()["tickets"]
    return found


def test_a_request_waits_and_its_lab_starts_by_itself(module_lab: HubProcess):
    hub = module_lab
    ana, bo = hub.token("ana"), hub.token("bo")
    hub.start_lab("ana", ana, "gpu-2")

    queued = hub.post_lab("bo", bo, {"profile": "gpu-1"})
    assert queued.status_code == 409
    assert "wait in line now: number 1 of 1, expected in about 7 days" in queued.json()["message"]
    (ticket,) = shown(hub, bo)
    assert (ticket["state"], ticket["position"]) == ("waiting", 1)
    assert ticket["expected"] is not None, "the other lab was granted a week"
    again = hub.post_lab("bo", bo, {"profile": "gpu-1"})
    assert again.status_code == 409
    assert [t["id"] for t in shown(hub, bo)] == [ticket["id"]], "asking again changes nothing"
    assert shown(hub, ana) == [], "nobody sees another's ticket"
    for path in ("/gpus/tickets", "/gpus/notices"):
        assert hub.api("GET", path, "no-such-token").status_code == 403

    hub.stop_lab("ana", ana)
    hub.wait_ready("bo", bo)
    (lease,) = hub.leases()
    assert (lease.holder, lease.state, len(lease.gpus), lease.ticket) == (Holder("bo"), LeaseState.BOUND, 1, ticket["id"])
    assert tickets(hub) == ()
    hub.stop_lab("bo", bo)


def test_the_line_is_kept_over_a_restart_of_the_hub(lab_files: LabFiles, engine: Engine):
    with running_hub(lab_files, engine) as hub:
        ana, bo, cem = hub.token("ana"), hub.token("bo"), hub.token("cem")
        hub.start_lab("ana", ana, "gpu-2")
        assert hub.post_lab("bo", bo, {"profile": "gpu-2"}).status_code == 409
        assert hub.post_lab("cem", cem, {"profile": "gpu-1"}).status_code == 409
        before = tickets(hub)
        hub.kill()
        hub.start()
        assert tickets(hub) == before
        hub.stop_lab("ana", ana)
        hub.wait_ready("bo", bo)
        assert [t["position"] for t in shown(hub, cem)] == [1]
        hub.stop_lab("bo", bo)
        hub.wait_ready("cem", cem)
        hub.assert_agreement()
        hub.stop_lab("cem", cem)


def test_a_small_request_does_not_pass_a_big_one_for_ever(module_lab: HubProcess):
    hub = module_lab
    # People without a history: who used fewer GPU-hours lately would go first otherwise.
    ana, bo, cem = hub.token("a-1"), hub.token("b-1"), hub.token("c-1")
    hub.start_lab("a-1", ana, "gpu-1")
    assert hub.post_lab("b-1", bo, {"profile": "gpu-2"}).status_code == 409
    # A GPU is free, but it is what the big request waits for.
    assert hub.post_lab("c-1", cem, {"profile": "gpu-1"}).status_code == 409
    assert [t["position"] for t in shown(hub, cem)] == [2]
    hub.stop_lab("a-1", ana)
    hub.wait_ready("b-1", bo)
    assert [(lease.holder.user, len(lease.gpus)) for lease in hub.leases()] == [("b-1", 2)]
    hub.stop_lab("b-1", bo)
    hub.wait_ready("c-1", cem)
    hub.stop_lab("c-1", cem)


def test_a_start_from_the_line_that_is_stopped_is_not_tried_again(module_lab: HubProcess):
    hub = module_lab
    ana, bo = hub.token("ana"), hub.token("bo")
    hub.start_lab("ana", ana, "gpu-2")
    assert hub.post_lab("bo", bo, {"profile": "gpu-1"}).status_code == 409
    hub.stop_lab("ana", ana)
    hub.wait_for(lambda: [t for t in tickets(hub) if t.state is TicketState.STARTING] or hub.leases(), 30, "the start")
    hub.api("DELETE", "/users/bo/server", bo, timeout=90)
    hub.wait_for(lambda: not hub.leases() and not hub.containers(), 90, "the start to be undone")
    assert tickets(hub) == ()
    with ledger_of(hub) as ledger:
        last = ledger.last_ticket_of(Holder("bo"))
    assert last is not None
    assert last.state in (TicketState.CANCELLED, TicketState.DONE)


@pytest.fixture
def waiting(module_lab: HubProcess) -> Iterator[Browser]:
    """A person at a browser who waits, while another holds all GPUs."""
    ana = module_lab.token("ana")
    module_lab.start_lab("ana", ana, "gpu-2", "train")
    opened = Browser(module_lab, "bo")
    yield opened
    opened.session.close()
    module_lab.stop_lab("ana", ana, "train")


def test_the_form_leads_to_the_line_and_a_ticket_can_be_cancelled(waiting: Browser):
    hub = waiting.hub
    answer = waiting.spawn(profile="gpu-1")
    assert answer.url.endswith("/hub/line")
    assert "Number 1 of 1 in line" in answer.text
    assert "ana/train: 2 GPUs" in answer.text
    (ticket,) = tickets(hub)

    stranger = Browser(hub, "cem")
    assert stranger.post("/hub/line", {"cancel": ticket.id}).status_code == 404
    assert stranger.post("/hub/line", {"cancel": "x" * 5000}).status_code == 404
    stranger.session.close()
    assert tickets(hub) == (ticket,)

    page = waiting.post("/hub/line", {"cancel": ticket.id})
    assert "You do not wait for a GPU." in page.text
    assert tickets(hub) == ()


def test_a_lab_without_a_gpu_meanwhile_keeps_the_ticket(waiting: Browser):
    hub = waiting.hub
    waiting.spawn(profile="gpu-1")
    token = hub.token("bo")
    waiting.post("/hub/spawn/bo/meanwhile", {"profile": "cpu"})
    hub.wait_ready("bo", token, "meanwhile")
    (ticket,) = tickets(hub)
    assert (ticket.holder, ticket.state) == (Holder("bo"), TicketState.WAITING)
    hub.stop_lab("bo", token, "meanwhile")
    # What is started instead, under the same name, ends the ticket.
    hub.start_lab("bo", token, "cpu")
    assert tickets(hub) == ()
    hub.stop_lab("bo", token)


def test_policy_holds_for_form_rest_and_named_servers_alike(lab_files: LabFiles, engine: Engine):
    lab_files.edit(
        policy={
            "everyone": {"gpus_at_once": 1, "life": "2d"},
            "profiles": {"gpu-2": {"users": ["bo"]}},
        }
    )
    with running_hub(lab_files, engine) as hub:
        ana, bo = hub.token("ana"), hub.token("bo")
        denied = hub.post_lab("ana", ana, {"profile": "gpu-2"})
        assert (denied.status_code, "policy.profiles.gpu-2" in denied.json()["message"]) == (403, True)
        too_many = hub.post_lab("bo", bo, {"profile": "gpu-2"})
        assert (too_many.status_code, "you may have 1 at once" in too_many.json()["message"]) == (403, True)
        hub.start_lab("ana", ana, "gpu-1")
        second = hub.post_lab("ana", ana, {"profile": "gpu-1"}, "second")
        assert (second.status_code, "Stop a lab first" in second.json()["message"]) == (403, True)
        page = Browser(hub, "ana")
        refused = page.post("/hub/spawn/ana/third", {"profile": "gpu-1"})
        assert (refused.status_code, "you may have 1 at once" in refused.text) == (403, True)
        page.session.close()
        (lease,) = hub.leases()
        assert lease.ends is not None
        assert (lease.ends - lease.created).total_seconds() == 2 * 86400
        assert tickets(hub) == ()
        hub.stop_lab("ana", ana)

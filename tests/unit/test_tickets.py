"""Requests that become tickets, tickets that become claims, claims that become labs, and what may come in between."""

from __future__ import annotations

import itertools
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from spawner.errors import DeniedError, LabError, NoGpuFree
from spawner.grants import LineRules, ReclaimRules
from spawner.ledger import Ledger, Line
from spawner.ledger.journal import MOST_DETAIL
from spawner.ledger.requests import PLANS_BESIDE
from spawner.ledger.tickets import MOST_TICKETS
from spawner.line import plan
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from spawner.records import Event, GpuMark, Grant, MarkKind, Ticket, TicketState
from tests.unit.values import T0, after, make_gpu

GPUS = [make_gpu(i) for i in range(4)]
CLAIM = timedelta(minutes=5)
IDS = (f"{n:032x}" for n in itertools.count())


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def ask(ledger: Ledger, who: str, gpus: int = 1, now=T0, *, units=GPUS, profile="p", **request) -> Lease | Ticket:
    user, _, server = who.partition("/")
    return ledger.acquire(
        GpuRequest(profile, gpus, **request), Holder(user, server), units, lease_id=next(IDS), now=now,
        admit=lambda asked, holder, standing: Grant(asked), choose=packed,
    )  # fmt: skip


def plan_of(line: Line, now=T0):
    admit = lambda ticket, given: Grant(ticket.request)  # noqa: E731
    return plan(line.waiting, line.gpus, line.leases, line.shares, now, LineRules(), ReclaimRules(), admit, packed).turns


def turn(ledger: Ledger, now=T0, units=GPUS) -> tuple[Ticket, ...]:
    return ledger.advance(units, now, lambda line: plan_of(line, now), lambda: next(IDS), CLAIM)


def end(ledger: Ledger, lease: Lease, now=T0) -> None:
    ledger.drain(lease.id, now)
    ledger.release(lease.id, now, "the container is gone")


def state(ledger: Ledger, ticket: Ticket) -> TicketState:
    found = ledger.ticket(ticket.id)
    assert found
    return found.state


def waiting_behind(ledger: Ledger, who: str = "bo", gpus: int = 1) -> tuple[Lease, Ticket]:
    lease, ticket = ask(ledger, "ana", 4), ask(ledger, who, gpus)
    assert isinstance(lease, Lease)
    assert isinstance(ticket, Ticket)
    return lease, ticket


def claimed(ledger: Ledger, gpus: int = 1) -> Ticket:
    lease, _ = waiting_behind(ledger, gpus=gpus)
    end(ledger, lease)
    (ticket,) = turn(ledger)
    return ticket


def test_the_way_of_a_ticket(ledger: Ledger):
    ticket = claimed(ledger)
    assert ticket.claim_until == T0 + CLAIM
    lease = ask(ledger, "bo", now=after(1))
    assert isinstance(lease, Lease)
    assert (lease.ticket, lease.state, lease.in_flight) == (ticket.id, LeaseState.STARTING, True)
    assert state(ledger, ticket) is TicketState.STARTING
    ledger.bind(lease.id, after(2))
    assert state(ledger, ticket) is TicketState.DONE
    assert [event.action for event in ledger.events(user="bo")] == [
        "ticket.made", "ticket.claimed", "lease.acquired", "lease.bound",
    ]  # fmt: skip


def test_a_lease_counts_from_its_claim_and_its_start_from_its_own_moment(ledger: Ledger):
    claimed(ledger)
    lease = ask(ledger, "bo", now=after(200))
    assert isinstance(lease, Lease)
    assert (lease.created, lease.starting) == (T0, after(200))
    (stored,) = [found for found in ledger.active() if found.holder == Holder("bo")]
    assert stored == lease


def test_asking_again_is_the_same_ticket(ledger: Ledger):
    _, ticket = waiting_behind(ledger)
    again = ask(ledger, "bo", now=after(100))
    assert again == ticket


def test_asking_again_while_the_last_start_is_not_settled_is_the_same_ticket(ledger: Ledger):
    ticket = claimed(ledger, 4)
    lease = ask(ledger, "bo", 4)
    ledger.drain(lease.id, after(1))
    again = ask(ledger, "bo", 4, now=after(2))
    assert isinstance(again, Ticket)
    assert again.id == ticket.id
    ledger.release(lease.id, after(3), "gone")
    assert state(ledger, ticket) is TicketState.WAITING


def test_something_else_ends_a_ticket_whose_start_is_not_settled(ledger: Ledger):
    ticket = claimed(ledger, 4)
    first = ask(ledger, "bo", 4)
    ledger.drain(first.id, after(1))
    other = ask(ledger, "bo", 2, now=after(2))
    assert isinstance(other, Ticket)
    assert other.id != ticket.id
    assert state(ledger, ticket) is TicketState.CANCELLED
    ledger.release(first.id, after(3), "gone")
    assert state(ledger, ticket) is TicketState.CANCELLED
    assert [one.id for one in ledger.tickets()] == [other.id]


def test_who_does_not_want_to_wait_passes_nobody(ledger: Ledger):
    lease, _ = waiting_behind(ledger, gpus=4)
    end(ledger, lease)
    with pytest.raises(NoGpuFree, match="others wait in line"):
        ask(ledger, "cleo", wait=False)
    assert len(turn(ledger)) == 1


def test_who_waits_alone_may_start_at_once_and_their_ticket_goes_with_it(ledger: Ledger):
    first, ticket = waiting_behind(ledger)
    end(ledger, first)
    lease = ask(ledger, "bo", wait=False, now=after(60))
    assert isinstance(lease, Lease)
    assert lease.ticket == ticket.id
    assert turn(ledger) == ()
    ledger.bind(lease.id, after(61))
    assert state(ledger, ticket) is TicketState.DONE


def test_an_earlier_lease_of_a_ticket_does_not_take_the_later_one_along(ledger: Ledger):
    ticket = claimed(ledger)
    first = ask(ledger, "bo")
    ledger.drain(first.id, after(1))
    second = ask(ledger, "bo", wait=False, now=after(2))
    assert isinstance(second, Lease)
    ledger.release(first.id, after(3), "gone")
    assert state(ledger, ticket) is TicketState.STARTING
    ledger.bind(second.id, after(4))
    assert state(ledger, ticket) is TicketState.DONE


def test_nobody_waits_for_what_the_lab_does_not_have(ledger: Ledger):
    waiting_behind(ledger)
    with pytest.raises(NoGpuFree, match="this lab has 4 in all"):
        ask(ledger, "cleo", 5)
    with pytest.raises(NoGpuFree):
        ask(ledger, "cleo", 1, gpu_models=("H100",))
    assert len(ledger.tickets()) == 1


def test_what_is_only_out_of_circulation_may_be_waited_for(ledger: Ledger):
    ledger.mark(GpuMark(GPUS[0].uuid, MarkKind.DRAINED, "new fan", "admin", T0))
    ticket = ask(ledger, "ana", 4)
    assert isinstance(ticket, Ticket)
    assert turn(ledger) == ()
    ledger.unmark(GPUS[0].uuid, "admin", T0)
    assert [one.id for one in turn(ledger)] == [ticket.id]


def test_gpus_that_nobody_waits_for_need_no_ticket(ledger: Ledger):
    units = [*GPUS, make_gpu(9, model="A100"), make_gpu(10, model="A100")]
    ask(ledger, "ana", gpu_models=("A100",), units=units)
    ask(ledger, "bo", gpu_models=("A100",), units=units)
    assert isinstance(ask(ledger, "cleo", gpu_models=("A100",), units=units), Ticket)
    assert isinstance(ask(ledger, "dan", gpu_models=("L4",), units=units), Lease)
    assert isinstance(ask(ledger, "eve", units=units), Ticket)


def test_a_claim_on_a_gpu_that_went_out_of_circulation_is_not_started(ledger: Ledger):
    ticket = claimed(ledger)
    (claim,) = ledger.active()
    ledger.mark(GpuMark(claim.gpus[0], MarkKind.SICK, "Xid 79", "lab", T0))
    again = ask(ledger, "bo")
    assert isinstance(again, Ticket)
    assert (again.id, again.state, again.attempts, again.held_back_until) == (ticket.id, TicketState.WAITING, 0, None)
    (other,) = turn(ledger)
    (lease,) = ledger.active()
    assert other.id == ticket.id
    assert lease.gpus != claim.gpus


def test_the_line_gives_another_claim_for_one_that_went_out_of_circulation(ledger: Ledger):
    ticket = claimed(ledger)
    (claim,) = ledger.active()
    ledger.mark(GpuMark("n1", MarkKind.DRAINED, "new rack", "admin", T0))
    assert turn(ledger) == ()
    assert ledger.active() == ()
    ledger.unmark("n1", "admin", T0)
    assert [(one.id, one.attempts) for one in turn(ledger)] == [(ticket.id, 0)]
    assert ledger.active()[0].id != claim.id


def test_a_claim_that_nobody_uses_is_given_to_the_next(ledger: Ledger):
    ticket = claimed(ledger, 4)
    ask(ledger, "cleo", 4, now=after(1))
    assert turn(ledger, after(299)) != ()
    (next_one,) = turn(ledger, after(301))
    assert next_one.holder == Holder("cleo")
    assert (state(ledger, ticket), ledger.ticket(ticket.id).attempts) == (TicketState.WAITING, 1)


def test_a_ticket_fails_after_three_tries(ledger: Ledger):
    ticket = claimed(ledger)
    for now in (1, 100, 200):
        assert now == 1 or [one.id for one in turn(ledger, after(now))] == [ticket.id]
        lease = ask(ledger, "bo", now=after(now))
        assert isinstance(lease, Lease)
        end(ledger, lease, after(now))
        assert turn(ledger, after(now + 1)) == ()
    assert state(ledger, ticket) is TicketState.FAILED
    assert ledger.active() == ()
    assert "3 times in a row" in ledger.ticket(ticket.id).why


def test_a_cancelled_ticket_gives_its_claim_back(ledger: Ledger):
    ticket = claimed(ledger)
    assert ledger.cancel_ticket(ticket.id, T0, "bo")
    assert not ledger.cancel_ticket(ticket.id, T0, "bo")
    assert ledger.active() == ()
    assert state(ledger, ticket) is TicketState.CANCELLED


def test_a_ticket_that_starts_is_not_cancelled_by_its_number(ledger: Ledger):
    ticket = claimed(ledger)
    ask(ledger, "bo")
    assert not ledger.cancel_ticket(ticket.id, T0, "bo")
    assert ledger.cancel_tickets_of(ticket.holder, T0, "bo")


def test_claims_get_their_time_again_after_a_restart(ledger: Ledger):
    claimed(ledger)
    ledger.renew_claims(after(900))
    assert turn(ledger, after(899)) != ()


def test_a_refused_ticket_leaves_nothing(ledger: Ledger):
    waiting_behind(ledger)
    with pytest.raises(DeniedError, match="too many"):
        ledger.acquire(
            GpuRequest("p", 1), Holder("cleo"), GPUS, lease_id=next(IDS), now=T0,
            admit=lambda asked, holder, standing: Grant(asked, no_ticket="too many"), choose=packed,
        )  # fmt: skip
    assert len(ledger.tickets()) == 1


def test_asking_and_cancelling_in_a_loop_ends(ledger: Ledger):
    ask(ledger, "ana", len(GPUS))
    for n in range(MOST_TICKETS):
        assert ledger.cancel_ticket(ask(ledger, "bo", now=after(n)).id, after(n), "bo")
    entries = ledger.version()
    with pytest.raises(DeniedError, match="60 tickets in the last hour; 60 are the most") as refused:
        ask(ledger, "bo", now=after(MOST_TICKETS))
    assert refused.value.status_code == 403
    assert ledger.version() == entries
    assert isinstance(ask(ledger, "cy", now=after(MOST_TICKETS)), Ticket), "it is nobody else's affair"
    assert isinstance(ask(ledger, "bo", 0, profile="cpu", now=after(MOST_TICKETS)), Lease), "nor is a lab that waits for nothing"
    kept = ask(ledger, "bo/b", now=after(3601))
    assert isinstance(kept, Ticket)
    assert ask(ledger, "bo/b", now=after(3601)) == kept, "to ask again for what one waits for is not a new ticket"


# --- the journal


def test_the_journal_is_only_added_to(ledger: Ledger, tmp_path: Path):
    ask(ledger, "ana")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        for statement in ("DELETE FROM events", "UPDATE events SET actor = 'nobody'"):
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                raw.execute(statement)
    raw.close()
    assert [event.actor for event in ledger.events()] == ["ana"]


@pytest.mark.parametrize(
    "detail",
    [
        pytest.param({"message": "é" * 5000}, id="one-long-text"),
        pytest.param({str(n): "x" * 50 for n in range(500)}, id="many-texts"),
        pytest.param({"list": list(range(9000)), "why": "kept"}, id="a-long-list"),
        pytest.param({"x" * 9000: 1}, id="a-long-key"),
    ],
)
def test_an_entry_of_any_length_can_be_read_back(ledger: Ledger, detail: dict[str, object]):
    ledger.record(Event(T0, "ana", "some.thing", detail=detail))
    ledger.record(Event(T0, "ana", "some.thing", detail={"n": 1}))
    first, second = ledger.events()
    assert first.detail
    assert second.detail == {"n": 1}
    assert len(str(first.detail)) <= 2 * MOST_DETAIL


def test_every_method_tells_trouble_in_words(ledger: Ledger, tmp_path: Path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        raw.execute("DROP TABLE tickets")
    raw.close()
    with pytest.raises(LabError, match="cannot be used"):
        ledger.tickets()


def test_nobody_who_starts_a_lab_waits_for_the_line_to_be_planned(ledger: Ledger):
    lease, ticket = waiting_behind(ledger)
    end(ledger, lease)
    meanwhile: list[Lease | Ticket] = []

    def turns(line: Line):
        if not meanwhile:
            meanwhile.append(ask(ledger, "cy", 0, profile="cpu"))
        return plan_of(line)

    (claimed_one,) = ledger.advance(GPUS, T0, turns, lambda: next(IDS), CLAIM)
    assert isinstance(meanwhile[0], Lease)
    assert claimed_one.id == ticket.id


def test_a_plan_from_before_a_change_gives_nothing(ledger: Ledger):
    lease, ticket = waiting_behind(ledger)
    end(ledger, lease)

    def turns(line: Line):
        found = plan_of(line)
        if found:
            for gpu in GPUS:
                ledger.mark(GpuMark(gpu.uuid, MarkKind.SICK, "Xid 79", "lab", T0, True))
        return found

    assert ledger.advance(GPUS, T0, turns, lambda: next(IDS), CLAIM) == ()
    assert state(ledger, ticket) is TicketState.WAITING


def test_a_line_that_always_changes_moves_all_the_same(ledger: Ledger):
    lease, ticket = waiting_behind(ledger)
    end(ledger, lease)
    plans: list[int] = []

    def turns(line: Line):
        plans.append(1)
        if len(plans) <= PLANS_BESIDE:
            ask(ledger, f"p{len(plans)}", 0, profile="cpu")
        return plan_of(line)

    (claimed_one,) = ledger.advance(GPUS, T0, turns, lambda: next(IDS), CLAIM)
    assert claimed_one.id == ticket.id
    assert len(plans) == PLANS_BESIDE + 1

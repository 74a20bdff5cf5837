"""What looking after labs leaves in the ledger: watches that nobody overwrites, troubles, endings, restarts on the same GPUs."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from spawner.grants import LineRules, ReclaimRules
from spawner.ledger import Ledger, Line
from spawner.line import plan
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from spawner.records import Grant, TicketState, Watch
from spawner.told import Trouble, TroubleKind
from tests.unit.values import T0, after, make_gpu

GPUS = [make_gpu(i) for i in range(2)]
IDS = (f"{n:032x}" for n in itertools.count())
CLAIM = timedelta(minutes=5)


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def ask(ledger: Ledger, who: str, now=T0, gpus: int = 1, life: timedelta | None = None):
    user, _, server = who.partition("/")
    return ledger.acquire(
        GpuRequest("p", gpus), Holder(user, server), GPUS, lease_id=next(IDS), now=now,
        admit=lambda asked, holder, standing: Grant(asked, life=life, groups=("night",)), choose=packed,
    )  # fmt: skip


def lab(ledger: Ledger, who: str, now=T0, gpus: int = 1) -> Lease:
    lease = ask(ledger, who, now, gpus)
    assert isinstance(lease, Lease)
    ledger.bind(lease.id, now)
    return lease


def end(ledger: Ledger, lease: Lease, now=T0) -> None:
    ledger.drain(lease.id, now)
    ledger.release(lease.id, now, "the container is gone")


def turn(ledger: Ledger, now=T0):
    def turns(line: Line):
        admit = lambda ticket, given: Grant(ticket.request)  # noqa: E731
        return plan(line.waiting, line.gpus, line.leases, line.shares, now, LineRules(), ReclaimRules(), admit, packed).turns

    return ledger.advance(GPUS, now, turns, lambda: next(IDS), CLAIM)


def restart(ledger: Ledger, lease: Lease, now=T0) -> tuple[str, str]:
    ids = (next(IDS), next(IDS))
    ledger.restart_after(lease, GpuRequest("p", len(lease.gpus)), ids, CLAIM, lease.holder.user, now)
    return ids


def test_a_watch_comes_back_as_it_was_kept(ledger):
    lease = lab(ledger, "ana")
    watch = Watch(lease.id, T0, after(1), after(2), after(3), after(4), 2, "idle", "Please stop it.", after(5))
    assert ledger.rewatch([(Watch(lease.id), watch)]) == {lease.id}
    assert ledger.watches() == {lease.id: watch}


def test_what_the_holder_did_meanwhile_is_not_overwritten(ledger):
    ana, bo = lab(ledger, "ana"), lab(ledger, "bo")
    read = {lease.id: Watch(lease.id, warned=T0, stop_at=T0, cause="idle", text="x") for lease in (ana, bo)}
    ledger.rewatch([(Watch(key), watch) for key, watch in read.items()])
    # Somebody presses *Extend* while a round is under way.
    pressed = Watch(ana.id, safe_until=after(3600), extensions=1)
    assert ledger.rewatch([(read[ana.id], pressed)]) == {ana.id}
    stopping = {key: dataclasses.replace(watch, cause="stop") for key, watch in read.items()}
    assert ledger.rewatch([(read[key], stopping[key]) for key in read]) == {bo.id}
    assert ledger.watches() == {ana.id: pressed, bo.id: stopping[bo.id]}
    # ... and a second press at the same moment counts once.
    assert ledger.rewatch([(read[ana.id], pressed)]) == frozenset()


def test_nothing_is_kept_of_a_lab_that_ended(ledger):
    lease = lab(ledger, "ana")
    end(ledger, lease)
    assert ledger.rewatch([(Watch(lease.id), Watch(lease.id, cause="idle"))]) == frozenset()
    assert ledger.watches() == {}


def test_troubles_are_told_until_they_are_over_or_the_lab_ends(ledger):
    ana, bo = lab(ledger, "ana"), lab(ledger, "bo")
    lost = Trouble(ana.id, TroubleKind.LOST, T0, "gone")
    seat = Trouble(ana.id, TroubleKind.SEAT, T0, "too much", after(300), after(10))
    other = Trouble(bo.id, TroubleKind.LOST, T0, "gone")
    for trouble in (lost, seat, other):
        ledger.note_trouble(trouble)
    assert ledger.troubles() == tuple(sorted((lost, seat, other), key=lambda each: (each.lease, each.kind.value)))
    assert ledger.told("ana", T0).troubles == (lost, seat)
    ledger.note_trouble(dataclasses.replace(seat, seen=after(20)))
    ledger.end_trouble(ana.id, TroubleKind.LOST)
    assert ledger.told("ana", T0).troubles == (dataclasses.replace(seat, seen=after(20)),)
    end(ledger, ana)
    assert ledger.troubles() == (other,)


def test_everybody_is_told_of_their_own_labs_only(ledger):
    ana, bo = lab(ledger, "ana/train"), lab(ledger, "bo")
    for lease in (ana, bo):
        ledger.rewatch([(Watch(lease.id), Watch(lease.id, cause="idle", text=lease.holder.user))])
        ledger.note_ending(lease.id, f"{lease.holder.user} was stopped.")
    told = ledger.told("ana", T0)
    assert (told.labs, [watch.text for watch in told.watches], told.endings) == ({ana.id: Holder("ana", "train")}, ["ana"], ())
    end(ledger, ana, after(60))
    told = ledger.told("ana", after(60))
    assert told.labs == {}
    assert [(ending.lease, ending.holder, ending.text) for ending in told.endings] == [(ana.id, ana.holder, "ana was stopped.")]
    assert ledger.told("ana", after(60) + timedelta(days=40)).endings == ()
    ledger.dismiss_endings("ana")
    assert ledger.told("ana", after(60)).endings == ()


def test_a_restart_keeps_its_gpus_from_whoever_waits(ledger):
    ana, bo = lab(ledger, "ana"), lab(ledger, "bo")
    waiting = ask(ledger, "cem")
    ticket_id, claim_id = restart(ledger, ana, after(60))
    end(ledger, ana, after(70))
    claim = ledger.lease(claim_id)
    assert (claim.state, claim.gpus, claim.groups) == (LeaseState.CLAIMED, ana.gpus, ("night",))
    claimed = turn(ledger, after(71))
    assert [ticket.id for ticket in claimed] == [ticket_id]
    again = ask(ledger, "ana", after(72))
    assert isinstance(again, Lease)
    assert (again.id, again.gpus) == (claim_id, ana.gpus)
    ledger.bind(again.id, after(73))
    assert ledger.ticket(ticket_id).state is TicketState.DONE
    end(ledger, bo, after(80))
    assert [ticket.id for ticket in turn(ledger, after(81))] == [waiting.id]
    # A restart happens once.
    end(ledger, again, after(90))
    assert [lease.holder.user for lease in ledger.active()] == ["cem"]


def test_a_restart_renews_neither_life_nor_extensions_nor_idle_time(ledger):
    life = timedelta(hours=2)
    lease = ask(ledger, "ana", life=life)
    ledger.bind(lease.id, T0)
    ledger.set_end(lease.id, after(9000), "ana", after(10))
    watch = Watch(lease.id, after(20), after(30), after(40), after(50), after(600), 2, "idle", "Please stop it.", after(60))
    ledger.rewatch([(Watch(lease.id), watch)])
    _, claim_id = restart(ledger, lease, after(61))
    end(ledger, lease, after(70))
    again = ask(ledger, "ana", after(80), life=life)
    assert (again.id, again.ends) == (claim_id, after(9000))
    assert ledger.lease(claim_id).ends == after(9000)
    kept = Watch(claim_id, idle_since=after(20), safe_until=after(600), extensions=2, seen=after(60))
    assert ledger.watches() == {claim_id: kept}, "what was said of a stop is said anew, with its grace"


def test_a_restart_that_waited_in_line_after_all_has_a_life_of_its_own(ledger):
    life = timedelta(hours=2)
    lease = ask(ledger, "ana", life=life)
    ledger.bind(lease.id, T0)
    restart(ledger, lease)
    end(ledger, lease)
    later = after(10) + CLAIM
    turn(ledger, later)
    turn(ledger, later + timedelta(minutes=5))
    again = ask(ledger, "ana", later + timedelta(minutes=5), life=life)
    assert again.ends == later + timedelta(minutes=5) + life


def test_a_restart_is_no_claim_for_whoever_began_another_lab_meanwhile(ledger):
    lease = lab(ledger, "ana")
    ticket_id, claim_id = restart(ledger, lease, after(10))
    ledger.drain(lease.id, after(10))
    lab(ledger, "ana/other", after(20))
    ledger.release(lease.id, after(30), "the container is gone")
    assert ledger.ticket(ticket_id).state is TicketState.WAITING, "policy decides about both together when its turn comes"
    assert ledger.lease(claim_id) is None
    assert [ticket.id for ticket in turn(ledger, after(31))] == [ticket_id]


def test_a_restart_is_void_where_the_lab_was_started_anew_meanwhile(ledger):
    lease = lab(ledger, "ana")
    ticket_id, _ = restart(ledger, lease, after(10))
    ledger.drain(lease.id, after(10))
    again = lab(ledger, "ana", after(20))
    ledger.release(lease.id, after(30), "the container is gone")
    assert ledger.ticket(ticket_id) is None
    assert ledger.active() == (ledger.lease(again.id),)


def test_a_restart_that_nobody_comes_for_gives_the_gpus_to_the_line(ledger):
    lease = lab(ledger, "ana")
    restart(ledger, lease)
    end(ledger, lease)
    turn(ledger, after(10) + CLAIM)
    assert ledger.active() == ()


def test_a_restart_that_did_not_come_at_once_does_not_come_later(ledger):
    lease = lab(ledger, "ana")
    restart(ledger, lease)
    end(ledger, lease, T0 + timedelta(hours=1))
    assert ledger.active() == ()
    assert ledger.tickets() == ()


def test_who_waits_under_this_name_already_is_not_given_a_second_ticket(ledger):
    ana, bo = lab(ledger, "ana"), lab(ledger, "bo")
    restart(ledger, ana)
    # The hub forgot the lab, and its holder asked for another start while the container was still there.
    waits = ask(ledger, "ana", gpus=2)
    end(ledger, ana)
    assert [ticket.id for ticket in ledger.tickets()] == [waits.id]
    assert [lease.id for lease in ledger.active()] == [bo.id]

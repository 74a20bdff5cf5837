"""G1, G2 and G3 by a state machine: whatever is cut off wherever, no GPU is held twice, none is lost, and nobody waits for ever.

Hypothesis drives the real ledger, settlement, line and policy through starts, stops, tickets, crashes at any statement or call,
engines that stand still and containers that come late, and compares after each step what the ledger says, what the journal says
and what the modelled engine has. Lasts some two minutes; with GPULAB_TEST_FULL=1 ten times as long.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from spawner import policy, sharing
from spawner.errors import LabError
from spawner.model import Holder, Lease, LeaseState, Presence
from spawner.records import GpuMark, Maintenance, MarkKind, Ticket, TicketState
from tests.machine.conftest import COUNTED, SEED, STEPS_VARIABLE
from tests.machine.world import CONFIG, GPUS, GPUS_AT_ONCE, HOLDERS, LABS_AT_ONCE, PROFILES, UNITS, World

FULL = bool(os.environ.get("GPULAB_TEST_FULL"))
STEPS = int(os.environ.get(STEPS_VARIABLE) or (1_000_000 if FULL else 100_000))
FOLDER = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
SPENT = [TicketState.DONE.value, TicketState.CANCELLED.value, TicketState.FAILED.value]

picks = st.integers(0, 1000)
faults = st.one_of(st.just(0), st.just(0), st.integers(1, 40))


class Machine(RuleBasedStateMachine):
    """One life of a lab."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.folder)
        self.events = 0
        self.told: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.told_tickets: dict[str, str] = {}

    # --- people -------------------------------------------------------------

    @rule(pick=picks, profile=st.sampled_from(sorted(PROFILES)), wait=st.sampled_from([True, True, True, False]), fault=faults)
    def ask(self, pick: int, profile: str, wait: bool, fault: int) -> None:
        idle = [holder for holder in HOLDERS if holder not in self.world.sessions]
        if idle:
            request = type(PROFILES[profile])(**{**_fields(PROFILES[profile]), "wait": wait})
            self.world.at_risk(fault, self.world.ask, idle[pick % len(idle)], request)

    @precondition(lambda self: self.world.sessions)
    @rule(pick=picks, fault=faults)
    def proceed(self, pick: int, fault: int) -> None:
        self.world.at_risk(fault, self.world.proceed, self._starting(pick))

    @precondition(lambda self: self.world.sessions)
    @rule(pick=picks)
    def start_all_the_way(self, pick: int) -> None:
        self._up(self._starting(pick))

    @precondition(lambda self: self.world.sessions)
    @rule(pick=picks, fault=faults)
    def stop(self, pick: int, fault: int) -> None:
        # One trouble at a time: where neither ledger nor engine can be told, a lab goes on that the hub takes for stopped.
        self.world.at_risk(0 if self.world.engine.frozen else fault, self.world.stop, self._session(pick))

    @precondition(lambda self: any(session.stage != "bound" for session in self.world.sessions.values()))
    @rule(pick=picks, fault=faults)
    def give_up_a_start(self, pick: int, fault: int) -> None:
        self.world.at_risk(fault, self.world.end_of, self._starting(pick))

    @precondition(lambda self: self._tickets())
    @rule(pick=picks, fault=faults)
    def cancel(self, pick: int, fault: int) -> None:
        ids = self._tickets()
        self.world.at_risk(fault, self.world.ledger.cancel_ticket, ids[pick % len(ids)], self.world.now(), "someone")

    # --- the engine ---------------------------------------------------------

    @precondition(lambda self: self.world.engine.travelling and not self.world.engine.frozen)
    @rule(pick=picks)
    def a_creation_arrives(self, pick: int) -> None:
        lease_id = sorted(self.world.engine.travelling)[pick % len(self.world.engine.travelling)]
        self._arrive(lease_id)

    @precondition(lambda self: any(s.stage == "sent" for s in self.world.sessions.values()) and not self.world.engine.frozen)
    @rule(pick=picks, fault=faults)
    def a_creation_is_refused(self, pick: int, fault: int) -> None:
        sent = sorted(holder for holder, session in self.world.sessions.items() if session.stage == "sent")
        self.world.at_risk(fault, self.world.refused, sent[pick % len(sent)])

    @precondition(lambda self: self.world.engine.boxes and not self.world.engine.frozen)
    @rule(pick=picks, vanishes=st.booleans(), noticed=st.booleans(), fault=faults)
    def a_lab_ends(self, pick: int, vanishes: bool, noticed: bool, fault: int) -> None:
        lease_id = sorted(self.world.engine.boxes)[pick % len(self.world.engine.boxes)]
        if vanishes:
            del self.world.engine.boxes[lease_id]
        else:
            self.world.engine.boxes[lease_id].state = Presence.STOPPED
        for holder, session in list(self.world.sessions.items()):
            if noticed and session.lease.id == lease_id and session.stage == "bound":
                self.world.at_risk(fault, self.world.end_of, holder)

    @rule()
    def the_engine_stands_still_or_goes_on(self) -> None:
        self.world.engine.frozen = not self.world.engine.frozen

    # --- hub, settler, keeper, admin, time ------------------------------------

    @rule()
    def the_hub_is_killed(self) -> None:
        self.world.restart()

    @rule(fault=faults)
    def settle(self, fault: int) -> None:
        self.world.at_risk(fault, self.world.settle)

    @rule(fault=faults)
    def the_line_moves(self, fault: int) -> None:
        before = {lease[0] for lease in self._rows("SELECT id FROM leases WHERE state = 'claimed'")}
        self.world.at_risk(fault, self.world.advance)
        self._nothing_passed_an_overdue_one(before)

    @precondition(lambda self: self._tickets("claimed"))
    @rule(pick=picks, fault=faults)
    def a_claim_is_started(self, pick: int, fault: int) -> None:
        ids = self._tickets("claimed")
        ticket = self.world.ledger.ticket(ids[pick % len(ids)])
        assert ticket
        self.world.at_risk(fault, self.world.ask, ticket.holder, ticket.request)

    @rule(seconds=st.sampled_from([1, 5, 20, 61, 75, 135, 400, 4000, 90_000]))
    def time_passes(self, seconds: int) -> None:
        engine = self.world.engine
        known = set(engine.travelling)
        self.world.pass_time(seconds)
        self._created(known - set(engine.travelling))

    @precondition(lambda self: self._tickets("waiting"))
    @rule(pick=picks, ahead=st.sampled_from([1, 0, -1]))
    def move(self, pick: int, ahead: int) -> None:
        ids = self._tickets("waiting")
        self.world.ledger.move_ticket(ids[pick % len(ids)], ahead, self.world.now(), "admin")

    @rule(subject=st.sampled_from([*(gpu.uuid for gpu in GPUS), "n1"]), kind=st.sampled_from(list(MarkKind)))
    def mark_or_return(self, subject: str, kind: MarkKind) -> None:
        ledger = self.world.ledger
        if not ledger.unmark(subject, "admin", self.world.now()):
            ledger.mark(GpuMark(subject, kind, "why", "admin", self.world.now()))

    @rule()
    def maintenance(self) -> None:
        ledger, now = self.world.ledger, self.world.now()
        ledger.set_maintenance(None if ledger.maintenance() else Maintenance(now, "disks", "admin"), "admin", now)

    # --- helpers --------------------------------------------------------------

    def _rows(self, query: str) -> list[tuple]:
        return self.world.truth.execute(query).fetchall()

    def _tickets(self, state: str = "") -> list[str]:
        where = f"= '{state}'" if state else "IN ('waiting', 'claimed', 'starting')"
        return [row[0] for row in self._rows(f"SELECT id FROM tickets WHERE state {where} ORDER BY id")]

    def _session(self, pick: int) -> Holder:
        holders = sorted(self.world.sessions)
        return holders[pick % len(holders)]

    def _starting(self, pick: int) -> Holder:
        """A holder whose lab is on its way, where there is one."""
        starting = sorted(holder for holder, session in self.world.sessions.items() if session.stage != "bound")
        return starting[pick % len(starting)] if starting else self._session(pick)

    def _arrive(self, lease_id: str) -> None:
        self.world.engine.arrive(lease_id)
        self._created({lease_id})

    def _created(self, lease_ids: set[str]) -> None:
        for session in self.world.sessions.values():
            if session.lease.id in lease_ids and session.stage == "sent":
                session.stage = "created"

    def _up(self, holder: Holder) -> None:
        for _ in range(6):
            session = self.world.sessions.get(holder)
            if session is None or session.stage == "bound":
                break
            if session.stage == "sent":
                if self.world.engine.frozen or session.lease.id not in self.world.engine.travelling:
                    break
                self._arrive(session.lease.id)
            else:
                self.world.proceed(holder)

    # --- what always holds ------------------------------------------------------

    @invariant()
    def the_ledger_holds(self) -> None:
        COUNTED["steps"] += 1
        leases = {
            row[0]: (row[1], row[2], row[3], row[4], [])
            for row in self._rows("SELECT id, user, server, state, gpus FROM leases WHERE state != 'released'")
        }
        held = self._rows("SELECT lease_id, uuid FROM lease_gpus WHERE active ORDER BY lease_id, position")
        for lease_id, uuid in held:
            leases[lease_id][4].append(uuid)
        assert all(len(gpus) == number for *_, number, gpus in leases.values()), "a lease lost a GPU on the way"
        _one_holder_each([uuid for _, uuid in held], "two leases")
        _one_holder_each([uuid for box in self.world.engine.boxes.values() for uuid in box.gpus], "two containers")
        for lease_id, box in self.world.engine.boxes.items():
            if lease_id in leases:
                assert set(box.gpus) == set(leases[lease_id][4])
        self._within_quotas(leases)
        self._journal_tells_the_same({lease_id: (row[2], tuple(row[4])) for lease_id, row in leases.items()})

    def _within_quotas(self, leases: dict) -> None:
        counted = [row for row in leases.values() if row[2] != "draining"]
        for user, most in GPUS_AT_ONCE.items():
            mine = [row for row in counted if row[0] == user]
            assert sum(row[3] for row in mine) <= most, f"{user} has more GPUs than policy allows"
            assert len({row[1] for row in mine}) <= LABS_AT_ONCE, f"{user} has more labs than policy allows"

    def _journal_tells_the_same(self, leases: dict[str, tuple[str, tuple[str, ...]]]) -> None:
        ((count, newest),) = self._rows("SELECT count(*), coalesce(max(number), 0) FROM events")
        assert count == newest >= self.events, "the journal lost an entry"
        news = self._rows(f"SELECT action, subject, gpus, detail FROM events WHERE number > {self.events} ORDER BY number")
        self.events = newest
        for action, subject, gpus, detail in news:
            self._tell(action, subject, tuple(json.loads(gpus)), json.loads(detail).get("ticket", ""))
        assert {key: value for key, value in self.told.items() if value[0] != "released"} == leases
        live = dict(self._rows("SELECT id, state FROM tickets WHERE state IN ('waiting', 'claimed', 'starting')"))
        assert {key: state for key, state in self.told_tickets.items() if state not in SPENT} == live
        holders = self._rows("SELECT user, server FROM tickets WHERE state IN ('waiting', 'claimed', 'starting')")
        assert len(holders) == len(set(holders)), "a holder has two tickets"

    def _tell(self, action: str, subject: str, gpus: tuple[str, ...], ticket: str) -> None:
        leases = {
            "ticket.claimed": "claimed", "lease.acquired": "starting", "lease.bound": "bound", "lease.draining": "draining",
            "lease.released": "released",
        }  # fmt: skip
        tickets = {
            "ticket.made": "waiting", "ticket.waits_again": "waiting", "ticket.failed": "failed", "ticket.cancelled": "cancelled"
        }  # fmt: skip
        if action in leases:
            self.told[subject] = (leases[action], gpus)
            state = {"ticket.claimed": "claimed", "lease.acquired": "starting", "lease.bound": "done"}.get(action)
            if ticket and state and self.told_tickets[ticket] != "cancelled":
                self.told_tickets[ticket] = state
        elif action in tickets:
            self.told_tickets[subject] = tickets[action]

    def _nothing_passed_an_overdue_one(self, before: set[str]) -> None:
        world = self.world
        line = world.ledger.line(UNITS, world.now())
        given = [lease for lease in line.leases if lease.state is LeaseState.CLAIMED and lease.id not in before]
        for ticket in line.waiting:
            if not given or world.now() - ticket.created <= CONFIG.line.overdue or not self._could_go(ticket, line):
                continue
            for lease in given:
                rival = world.ledger.ticket(lease.ticket)
                assert rival
                if rival.ahead > ticket.ahead or (rival.ahead == ticket.ahead and rival.created <= ticket.created):
                    continue
                units = [unit for unit in UNITS if unit.uuid in lease.gpus]
                assert not any(sharing.suits(unit, ticket.request) for unit in units), "an overdue ticket was passed"

    def _could_go(self, ticket: Ticket, line) -> bool:
        if ticket.held_back_until is not None and self.world.now() < ticket.held_back_until:
            return False
        if sharing.most_on_one_node(line.gpus, ticket.request) < ticket.request.gpus:
            return False
        try:
            policy.admit(CONFIG, ())(ticket.request, ticket.holder, line.standings[ticket.holder.user])
        except LabError:
            return False
        return True

    # --- in the end ---------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._quiesce()
        finally:
            self.world.close()

    def _quiesce(self) -> None:
        """Everybody works and every lab ends: then everybody who waited had their turn, and every GPU can be leased."""
        world = self.world
        world.engine.frozen = False
        for mark in world.ledger.marks():
            world.ledger.unmark(mark.subject, "admin", world.now())
        if world.ledger.maintenance():
            world.ledger.set_maintenance(None, "admin", world.now())
        world.restart()
        waiting = self._tickets()
        for _ in range(12 + 4 * len(waiting)):
            world.pass_time(61)
            for holder in sorted(world.sessions):
                world.stop(holder)
            world.settle()
            world.advance()
            for ticket_id in self._tickets("claimed"):
                ticket = world.ledger.ticket(ticket_id)
                assert ticket
                made = world.ask(ticket.holder, ticket.request)
                assert isinstance(made, Lease), "a claim could not be used"
                self._up(ticket.holder)
            self.the_ledger_holds()
            COUNTED["steps"] -= 1
            if not self._rows("SELECT 1 FROM leases WHERE state != 'released'") and not self._tickets():
                break
        states = {ticket_id: world.ledger.ticket(ticket_id) for ticket_id in waiting}
        assert not self._tickets(), f"tickets that never had their turn: {states}"
        assert all(ticket and ticket.state is not TicketState.WAITING for ticket in states.values())
        assert world.ledger.active() == (), "leases that nobody ends"
        assert world.engine.boxes == {}, "containers that nobody removes"
        assert set(world.lab.leasable_gpus()) == set(UNITS), "GPUs that are lost for ever"


def _fields(request) -> dict:
    return {name: getattr(request, name) for name in request.__slots__}


def _one_holder_each(uuids: list[str], whose: str) -> None:
    assert len(uuids) == len(set(uuids)), f"{whose} have one GPU"
    whole = {uuid for uuid in uuids if "#" not in uuid}
    assert not whole & {uuid.partition("#")[0] for uuid in uuids if "#" in uuid}, f"{whose} have a GPU and a seat of it"


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No log lines of the thousands of troubles, and no search for garbage between any two steps."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(4 * 3600 if FULL else 900)
def test_a_lab_survives_whatever_is_cut_off_wherever(undisturbed: None):
    how = settings(
        max_examples=50, stateful_step_count=200, deadline=None, database=None, derandomize=False, print_blob=True,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        Machine.folder = Path(folder)
        part = 0
        while COUNTED["steps"] < STEPS:
            print(f"seed of this part: {SEED + part}")
            run_state_machine_as_test(seed(SEED + part)(Machine), settings=how)
            gc.collect()
            part += 1
    assert COUNTED["steps"] >= STEPS

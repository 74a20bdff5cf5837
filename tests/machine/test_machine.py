"""G1, G2 and G3 by a state machine: whatever is cut off wherever, no GPU is held twice, none is lost, and nobody waits for ever.

Hypothesis drives the real ledger, settlement, line and policy through starts, stops, tickets, crashes at any statement or call,
engines that stand still and containers that come late, and compares after each step what the ledger says, what the journal says
and what the modelled engine has. Lasts some two minutes; with GPULAB_TEST_FULL=1 ten times as long.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from spawner import policy, sharing
from spawner.errors import LabError
from spawner.model import Holder, Lease, LeaseState, Presence
from spawner.records import GpuMark, Maintenance, MarkKind, Ticket, TicketState
from tests.machine.conftest import COUNTED, SEED, STEPS_VARIABLE
from tests.machine.world import CONFIG, GPUS, GPUS_AT_ONCE, HOLDERS, LABS_AT_ONCE, PROFILES, UNITS, Box, World

FULL = bool(os.environ.get("GPULAB_TEST_FULL"))
STEPS = int(os.environ.get(STEPS_VARIABLE) or (1_000_000 if FULL else 100_000))
FOLDER = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
SPENT = [TicketState.DONE.value, TicketState.CANCELLED.value, TicketState.FAILED.value]

# Each step is one of these; the oftener it is named, the oftener it is done. Where it is not possible, the next that is.
WORK = [
    *["ask"] * 4, *["proceed"] * 3, *["start_all_the_way"] * 4, *["a_creation_arrives"] * 2, *["the_line_moves"] * 4,
    *["a_claim_is_started"] * 4, *["settle"] * 3, *["time_passes"] * 3, *["stop"] * 3, "give_up_a_start", "cancel",
]  # fmt: skip
TROUBLE = [
    *["a_lab_ends"] * 2, "the_engine_stands_still", *["the_engine_goes_on"] * 2, "the_hub_is_killed", "a_creation_is_refused",
    "a_forgotten_creation_comes", "time_passes", *["restart_in_place"] * 2,
]  # fmt: skip
ADMIN = [*["move"] * 3, "mark", *["unmark"] * 2, "maintenance_begins", *["maintenance_ends"] * 2]
TIMES = (1, 1, 5, 20, 40, 61, 75, 75, 135, 400, 4000, 90_000)
SUBJECTS = (*(gpu.uuid for gpu in GPUS), "n1")

CALM = [*WORK, *["the_engine_goes_on"] * 4, "unmark", *["maintenance_ends"] * 2]
STORMY = [*WORK * 2, *TROUBLE, *ADMIN]

luck = st.integers(0, 2**32 - 1)


class Machine(RuleBasedStateMachine):
    """One life of a lab."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.folder)
        self.events = 0
        self.number = 0
        self.told: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.told_tickets: dict[str, str] = {}

    def _do(self, actions: list[str], luck: int) -> None:
        # Hypothesis likes to draw the same values again and again, which would leave most lives at their beginning. So a step
        # is thrown from what was drawn and from its number.
        self.number += 1
        dice = random.Random(f"{self.number} {luck}")
        first, pick = dice.randrange(len(actions)), dice.randrange(10_000)
        fault = dice.randrange(1, 41) if dice.random() < 0.3 else 0
        for offset in range(len(actions)):
            action = actions[(first + offset) % len(actions)]
            note(f"{self.number}: {action} {pick} {fault}")
            if getattr(self, action)(pick, fault) is not False:
                return

    @rule(luck=luck)
    def a_calm_step(self, luck: int) -> None:
        self._do(CALM, luck)

    @rule(luck=luck)
    def a_stormy_step(self, luck: int) -> None:
        self._do(STORMY, luck)

    # --- people: each says False where there is nothing to do ------------------

    def ask(self, pick: int, fault: int) -> bool:
        idle = [holder for holder in HOLDERS if holder not in self.world.sessions]
        if idle:
            name = sorted(PROFILES)[pick // len(HOLDERS) % len(PROFILES)]
            holder = idle[pick % len(idle)]
            if pick // 400 % 4:  # mostly people ask again for what they wait for
                query = (
                    "SELECT profile FROM tickets WHERE user = ? AND server = ? AND state IN ('waiting', 'claimed', 'starting')"
                )
                (name,) = self.world.truth.execute(query, (holder.user, holder.server)).fetchone() or (name,)
            request = dataclasses.replace(PROFILES[name], wait=pick // 100 % 4 != 0)
            made = self.world.at_risk(fault, self.world.ask, holder, request)
            if isinstance(made, Lease):
                self._nobody_was_passed(made)
        return bool(idle)

    def proceed(self, pick: int, fault: int) -> bool:
        starting = self._starting()
        if starting:
            self.world.at_risk(fault, self.world.proceed, starting[pick % len(starting)])
        return bool(starting)

    def start_all_the_way(self, pick: int, _fault: int) -> bool:
        starting = self._starting()
        if starting:
            self._up(starting[pick % len(starting)])
        return bool(starting)

    def stop(self, pick: int, fault: int) -> bool:
        holders = sorted(self.world.sessions)
        if holders:
            # One trouble at a time: where neither ledger nor engine can be told, a lab goes on that the hub takes for stopped.
            self.world.at_risk(0 if self.world.engine.frozen else fault, self.world.stop, holders[pick % len(holders)])
        return bool(holders)

    def restart_in_place(self, pick: int, fault: int) -> bool:
        bound = sorted(holder for holder, one in self.world.sessions.items() if one.stage == "bound" and one.lease.gpus)
        if not bound or self.world.engine.frozen:
            return False
        holder = bound[pick % len(bound)]
        # A crash in the middle leaves either no note, or one and a lab that goes on; the note is void ten minutes later.
        self.world.at_risk(fault, self.world.restart_in_place, holder)
        return True

    def give_up_a_start(self, pick: int, fault: int) -> bool:
        starting = self._starting()
        if starting:
            self.world.at_risk(fault, self.world.end_of, starting[pick % len(starting)])
        return bool(starting)

    def cancel(self, pick: int, fault: int) -> bool:
        ids = self._tickets()
        if ids:
            self.world.at_risk(fault, self.world.ledger.cancel_ticket, ids[pick % len(ids)], self.world.now(), "someone")
        return bool(ids)

    # --- the engine ---------------------------------------------------------

    def a_creation_arrives(self, pick: int, _fault: int) -> bool:
        engine = self.world.engine
        if not engine.travelling or engine.frozen:
            return False
        self._arrive(sorted(engine.travelling)[pick % len(engine.travelling)])
        return True

    def a_forgotten_creation_comes(self, pick: int, _fault: int) -> bool:
        # What must not be: a hub that stood still for minutes goes on with a start that was given up. It is a stray.
        gone = self._rows("SELECT id FROM leases WHERE state = 'released' ORDER BY created DESC, id LIMIT 3")
        if not gone or self.world.engine.frozen:
            return False
        (lease_id,) = gone[pick % len(gone)]
        lease = self.world.ledger.lease(lease_id)
        assert lease
        self.world.engine.boxes[lease_id] = Box(lease.gpus, Presence.RUNNING)
        self.world.engine.beyond.add(lease_id)
        return True

    def a_creation_is_refused(self, pick: int, fault: int) -> bool:
        sent = sorted(holder for holder, session in self.world.sessions.items() if session.stage == "sent")
        if not sent or self.world.engine.frozen:
            return False
        self.world.at_risk(fault, self.world.refused, sent[pick % len(sent)])
        return True

    def a_lab_ends(self, pick: int, fault: int) -> bool:
        boxes = self.world.engine.boxes
        if not boxes or self.world.engine.frozen:
            return False
        lease_id = sorted(boxes)[pick % len(boxes)]
        vanishes, noticed = pick // 100 % 2, pick // 1000 % 2
        if vanishes:
            del boxes[lease_id]
        else:
            boxes[lease_id].state = Presence.STOPPED
        for holder, session in list(self.world.sessions.items()):
            if noticed and session.lease.id == lease_id and session.stage == "bound":
                self.world.at_risk(fault, self.world.end_of, holder)
        return True

    def the_engine_stands_still(self, _pick: int, _fault: int) -> None:
        self.world.engine.frozen = True

    def the_engine_goes_on(self, _pick: int, _fault: int) -> bool:
        stood = self.world.engine.frozen
        self.world.engine.frozen = False
        return stood

    # --- hub, settler, keeper, admin, time ------------------------------------

    def the_hub_is_killed(self, _pick: int, _fault: int) -> None:
        self.world.restart()

    def settle(self, _pick: int, fault: int) -> None:
        self.world.at_risk(fault, self.world.settle)

    def the_line_moves(self, _pick: int, fault: int) -> None:
        before = {lease[0] for lease in self._rows("SELECT id FROM leases WHERE state = 'claimed'")}
        self.world.at_risk(fault, self.world.advance)
        if {lease[0] for lease in self._rows("SELECT id FROM leases WHERE state = 'claimed'")} - before:
            self._nothing_passed_an_overdue_one(before)

    def a_claim_is_started(self, pick: int, fault: int) -> bool:
        ids = self._tickets("claimed")
        if ids:
            ticket = self.world.ledger.ticket(ids[pick % len(ids)])
            assert ticket
            self.world.at_risk(fault, self.world.ask, ticket.holder, ticket.request)
        return bool(ids)

    def time_passes(self, pick: int, _fault: int) -> None:
        engine = self.world.engine
        known = set(engine.travelling)
        self.world.pass_time(TIMES[pick % len(TIMES)])
        self._created(known - set(engine.travelling))

    def move(self, pick: int, _fault: int) -> bool:
        ids = self._tickets("waiting")
        if ids:
            self.world.ledger.move_ticket(ids[pick % len(ids)], pick // 100 % 3 - 1, self.world.now(), "admin")
        return bool(ids)

    def mark(self, pick: int, _fault: int) -> None:
        kind = list(MarkKind)[pick // 100 % 2]
        self.world.ledger.mark(GpuMark(SUBJECTS[pick % len(SUBJECTS)], kind, "why", "admin", self.world.now()))

    def unmark(self, pick: int, _fault: int) -> bool:
        marks = self.world.ledger.marks()
        return bool(marks) and self.world.ledger.unmark(marks[pick % len(marks)].subject, "admin", self.world.now())

    def maintenance_begins(self, _pick: int, _fault: int) -> None:
        self.world.ledger.set_maintenance(Maintenance(self.world.now(), "disks", "admin"), "admin", self.world.now())

    def maintenance_ends(self, _pick: int, _fault: int) -> bool:
        on = self.world.ledger.maintenance() is not None
        if on:
            self.world.ledger.set_maintenance(None, "admin", self.world.now())
        return on

    # --- helpers --------------------------------------------------------------

    def _rows(self, query: str) -> list[tuple]:
        return self.world.truth.execute(query).fetchall()

    def _tickets(self, state: str = "") -> list[str]:
        where = f"= '{state}'" if state else "IN ('waiting', 'claimed', 'starting')"
        return [row[0] for row in self._rows(f"SELECT id FROM tickets WHERE state {where} ORDER BY id")]

    def _starting(self) -> list[Holder]:
        """Holders whose labs are on their way."""
        return sorted(holder for holder, session in self.world.sessions.items() if session.stage != "bound")

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
        engine = self.world.engine
        expected = {lease_id: box.gpus for lease_id, box in engine.boxes.items() if lease_id not in engine.beyond}
        _one_holder_each([uuid for gpus in expected.values() for uuid in gpus], "two containers")
        assert all(lease_id in leases for lease_id in expected), "a GPU was released under a container"
        assert all(set(gpus) == set(leases[lease_id][4]) for lease_id, gpus in expected.items())
        on_the_way = engine.travelling.keys() - engine.beyond
        assert all(lease_id in leases for lease_id in on_the_way), "a GPU was released before a late container came"
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
        holders = self._rows("SELECT user, server, state FROM tickets WHERE state IN ('waiting', 'claimed', 'starting')")
        assert len(holders) == len({row[:2] for row in holders}), "a holder has two tickets"
        labs = self._rows("SELECT user, server FROM leases WHERE state IN ('starting', 'bound')")
        assert len(labs) == len(set(labs)), "a holder has two labs of one name"
        queued = {(user, server) for user, server, state in holders if state != "starting"}
        assert not queued & set(labs), "somebody waits for a lab that they have"

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

    def _nobody_was_passed(self, lease: Lease) -> None:
        units = [unit for unit in UNITS if unit.uuid in lease.gpus]
        if lease.ticket or not units:
            return
        for ticket in self.world.ledger.tickets():
            if ticket.state is TicketState.WAITING and ticket.holder != lease.holder:
                assert not any(sharing.suits(unit, ticket.request) for unit in units), "a start went past the line"

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
        for lease_id in list(world.engine.travelling):
            world.engine.arrive(lease_id)
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
        max_examples=25, stateful_step_count=200, deadline=None, database=None, derandomize=False, print_blob=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
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

"""What a person who waits is shown: one plan for all who look, and how their ticket ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from spawner.model import Lease
from spawner.pages import line_state
from spawner.pages.notice_handlers import notices
from spawner.records import Ticket
from spawner.runtime import Lab
from tests.unit.pages_html import Page, render
from tests.unit.test_board import World
from tests.unit.values import after


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.run("ana", "gpu-2")
    yield made
    made.ledger.close()


def ticket(world: World, user: str) -> Ticket:
    made = world.ask(user, "gpu-1")
    assert not isinstance(made, Lease)
    return made


def page(world: World, user: str) -> str:
    return Page(render("line.html", view=line_state.line_view(world.lab, user, (), names=False))).text


def endings(world: World, user: str) -> list[str]:
    return [ending["text"] for ending in notices(world.lab, user)["endings"]]


def test_all_who_look_share_one_plan_until_the_line_changes(world: World, monkeypatch: pytest.MonkeyPatch):
    plans: list[int] = []
    plan = Lab.plan
    monkeypatch.setattr(Lab, "plan", lambda lab, line: plans.append(1) or plan(lab, line))
    for user in ("bo", "cem"):
        ticket(world, user)
    for _ in range(20):
        assert "Number 1 of 2 in line" in page(world, "bo")
        assert "Number 2 of 2 in line" in page(world, "cem")
    assert len(plans) == 1
    ticket(world, "dia")
    assert "Number 3 of 3 in line" in page(world, "dia"), "a ticket is in line from its first look on"
    assert len(plans) == 2


def test_who_was_cancelled_by_an_admin_reads_it_for_a_day_or_until_it_is_read(world: World):
    made = ticket(world, "bo")
    world.ledger.cancel_ticket(made.id, after(1), "root", "An admin took the request out of the line.")
    said = "Your ticket for your default lab was cancelled. An admin took the request out of the line."
    assert said in page(world, "bo")
    assert endings(world, "bo") == [said]
    assert endings(world, "cem") == []
    world.clock.now = after(1) + timedelta(hours=25)
    assert endings(world, "bo") == []
    world.clock.now = after(60)
    world.ledger.read_ended_tickets("bo", world.clock())
    assert said not in page(world, "bo")
    assert endings(world, "bo") == []


def test_a_ticket_that_failed_says_so_and_one_that_its_owner_cancelled_does_not(world: World):
    ticket(world, "bo")
    mine = ticket(world, "cem")
    world.ledger.cancel_ticket(mine.id, after(1), "cem")
    for lease in world.ledger.active():
        world.ledger.release(lease.id, after(1), "ended")
    for attempt in range(1, 4):
        world.clock.now = after(3600 * attempt)
        world.ledger.advance(
            world.lab.units(), world.clock(), lambda line: world.lab.plan(line).turns, world.lab.new_id, timedelta(minutes=5)
        )
        (claim,) = world.ledger.active()
        world.ledger.release(claim.id, world.clock(), "it did not start")
    said = "Your ticket for your default lab failed. The lab could not be started, 3 times in a row."
    assert said in page(world, "bo")
    assert endings(world, "bo") == [said]
    assert endings(world, "cem") == []
    assert isinstance(world.ask("bo", "gpu-1"), Lease)
    assert endings(world, "bo") == [], "the lab runs after all"

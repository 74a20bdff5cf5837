"""Wherever a seat of a shared GPU shows, it says that its memory is not isolated; a whole GPU does not say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spawner import present
from spawner.commands import queue
from spawner.grants import SharingRule
from spawner.model import Holder
from spawner.pages import line_state
from spawner.runtime import Lab
from tests.unit.pages_html import Page, render, spawner
from tests.unit.test_board import World
from tests.unit.values import make_gpu, make_profile

NOTE = "memory is not isolated"


class Shared:
    """A lab of one whole GPU and one with two seats; ana, bo and cem hold all of them, and dia waits twice."""

    def __init__(self, world: World) -> None:
        rule = SharingRule(frozenset({make_gpu(0).uuid}), frozenset(), 2)
        profiles = {"whole": make_profile(key="whole"), "seat": make_profile(key="seat", sharing="shared")}
        base = world.lab.config
        config = replace(base, gpus=replace(base.gpus, sharing=(rule,)), profiles=profiles)
        self.lab: Lab = replace(world.lab, config=config)
        world.lab = self.lab
        self.seat = world.run("ana", "seat")
        self.whole = world.run("bo", "whole")
        world.run("cem", "seat")
        world.ask("dia", "seat", "one")
        world.ask("dia", "whole", "two")

    def words(self, place: str) -> tuple[str, str]:
        """What stands there about a seat, and about a whole GPU."""
        lab = self.lab
        if place == "form":
            data = present.Snapshot((), (), None, "", lab.clock())
            page = Page(present.form(data, Holder("eli"), lab.config))
            return page.text_of(**{"data-profile": "seat"}), page.text_of(**{"data-profile": "whole"})
        if place == "home":
            seat, whole = (
                Page(render("home.html", default_server=spawner(view=present.lab_view(lease, lab.units(), lab.config)))).text
                for lease in (self.seat, self.whole)
            )
            return seat, whole
        if place == "start":
            return present.lease_words(self.seat), present.lease_words(self.whole)
        if place == "queue":
            seat, whole = (queue.text([found]) for found in queue.places(lab))
            return seat, whole
        view = line_state.line_view(lab, "dia", (), names=True)
        if place == "ticket":
            shown = [replace(view, tickets=(one,), held=()) for one in view.tickets]
        else:
            shown = [replace(view, tickets=view.tickets[1:], held=(row,)) for row in view.held[:2]]
        seat, whole = (Page(render("line.html", view=one)).text for one in shown)
        return seat, whole


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    world = World(tmp_path)
    yield Shared(world)
    world.ledger.close()


@pytest.mark.parametrize("place", ["form", "home", "start", "queue", "ticket", "held"])
def test_a_seat_says_that_its_memory_is_not_isolated(shared: Shared, place: str):
    seat, whole = shared.words(place)
    assert NOTE in seat
    assert NOTE not in whole

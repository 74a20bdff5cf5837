"""The board's one feed: it asks only while somebody listens, wakes everyone at once, and has a bounded number of places."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.errors import LedgerError
from spawner.pages import board_feed
from spawner.pages.board_feed import MOST_LISTENERS, MOST_PER_PERSON, Feed, TooManyListeners
from tests.unit.test_board import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def feed(world: World, monkeypatch: pytest.MonkeyPatch) -> Feed:
    monkeypatch.setattr(board_feed, "open_lab", lambda _file: world.lab)
    return Feed("lab.yaml", period=0.01)


async def test_everyone_who_listens_is_told_of_a_change_by_one_look(feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch):
    with feed.listening("ana"), feed.listening("bo"):
        first = await feed.now()
        waiting = [asyncio.ensure_future(feed.after(first, 20)) for _ in range(50)]
        await asyncio.to_thread(world.run, "ana", "gpu-1")
        found = await asyncio.gather(*waiting)
    assert {shown.view.counts.free for shown in found} <= {1}
    assert len({id(shown) for shown in found}) == 1


async def test_nothing_is_asked_while_nobody_listens(feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    version = world.ledger.version
    monkeypatch.setattr(world.ledger, "version", lambda: asked.append(1) or version())
    with feed.listening("ana"):
        first = await feed.now()
        await feed.after(first, 0.1)
    assert feed._task is not None
    await asyncio.wait_for(feed._task, 10)
    told = len(asked)
    assert told > 1
    with feed.listening("bo"):
        await feed.now()
    assert len(asked) > told, "who comes later is served again"


async def test_a_look_that_only_waits_is_not_followed_by_a_long_pause(feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    version, pause = world.ledger.version, asyncio.sleep

    def slowly() -> int:
        # As an engine or a busy machine lets it wait: that takes nothing from anybody.
        time.sleep(0.2)
        return version()

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await pause(0)

    monkeypatch.setattr(world.ledger, "version", slowly)
    monkeypatch.setattr(board_feed.asyncio, "sleep", noted)
    with feed.listening("ana"):
        first = await feed.now()
        await feed.after(first, 0.1)
    assert feed._task is not None
    await asyncio.wait_for(feed._task, 10)
    assert pauses
    assert max(pauses) < 1, "ten times as long as it waited would be two seconds"


async def test_quiet_time_gives_the_same_look_back(feed: Feed):
    with feed.listening("ana"):
        first = await feed.now()
        assert await feed.after(first, 0.05) is first


async def test_who_has_gone_does_not_wait_any_longer(feed: Feed):
    gone = False
    with feed.listening("ana"):
        first = await feed.now()
        waiting = asyncio.ensure_future(feed.after(first, 60, lambda: gone))
        await asyncio.sleep(0)
        gone = True
        feed.wake()
        assert await asyncio.wait_for(waiting, 10) is first


async def test_places_are_bounded_for_each_and_for_all(feed: Feed):
    with pytest.raises(TooManyListeners, match="Too many live boards"):
        take(feed, ["ana"] * (MOST_PER_PERSON + 1))
    with feed.listening("ana"):
        pass
    take(feed, [f"u{number}" for number in range(MOST_LISTENERS)])
    with pytest.raises(TooManyListeners):
        take(feed, [f"u{number}" for number in range(MOST_LISTENERS + 1)])


def take(feed: Feed, names: list[str]) -> None:
    """Listen as all of these at once, and let go again."""
    with contextlib.ExitStack() as places:
        for name in names:
            places.enter_context(feed.listening(name))


async def test_trouble_of_the_ledger_does_not_end_the_feed(feed: Feed, world: World, monkeypatch: pytest.MonkeyPatch):
    def fail() -> int:
        raise LedgerError("The ledger is away.")

    with feed.listening("ana"):
        first = await feed.now()
        with monkeypatch.context() as patch:
            patch.setattr(world.ledger, "version", fail)
            trouble = await feed.after(first, 20)
            assert trouble.view.problem == "The ledger is away."
        await asyncio.to_thread(world.run, "ana", "gpu-1")
        later = trouble
        while later.view.problem or later.view.counts.free == 2:
            seen, later = later, await feed.after(later, 20)
            assert later is not seen, "the feed stands still"

"""The board's one feed: looks at the lab for everybody who listens, and wakes them when there is something new.

Owns the thread in which the lab is looked at, the pace of looking, and how many may listen. While nobody listens nothing is
asked. Never decides who sees what, and never reads the ledger on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spawner.errors import LabError
from spawner.pages.board import SLOW_SECONDS, Looker
from spawner.pages.board_shown import Shown
from spawner.records import Tally
from spawner.runtime import Lab, open_lab

PERIOD_SECONDS = 0.15
# A look that costs much is followed by a longer pause: looking takes about a tenth of one core at most.
MOST_SHARE = 10.0
MOST_LISTENERS = 500
MOST_PER_PERSON = 12
T = TypeVar("T")
log = logging.getLogger("gpulab.board")


class TooManyListeners(LabError):
    """Too many streams are open."""

    status_code = 429
    reason = "too_many_listeners"


class Feed:
    """The feed of one lab; made once per hub, before its event loop runs.

    Args:
        file: path of lab.yaml.
    """

    def __init__(self, file: str, period: float = PERIOD_SECONDS, slow: float = SLOW_SECONDS) -> None:
        self._file = file
        self._period = period
        self._slow = slow
        # One thread: the looker remembers, and many requests at once must not become many looks at once.
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="gpulab-board")
        self._writing = ThreadPoolExecutor(2, thread_name_prefix="gpulab-board-write")
        self._shown: Shown | None = None
        self._spent = 0.0
        self._news: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners: Counter[str] = Counter()

    @property
    def lab(self) -> Lab:
        """The opened lab."""
        return open_lab(self._file)

    @functools.cached_property
    def _looker(self) -> Looker:
        return Looker(self.lab)

    async def now(self) -> Shown:
        """The board as it is now."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, self._look)

    async def history(self) -> tuple[Tally, ...]:
        """The points of the last day."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, lambda: self._looker.history())

    async def write(self, function: Callable[..., T], *args: object) -> T:
        """Call something that reads or writes the ledger, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, functools.partial(function, *args))

    def _look(self) -> Shown:
        # In this thread's own time: one that waits for a busy machine or a slow engine has taken nothing from anybody.
        began = time.thread_time()
        try:
            view = self._looker.look(self._slow)
            if self._shown is None or self._shown.view is not view:
                self._shown = Shown(view, self._shown)
            return self._shown
        finally:
            self._spent = time.thread_time() - began

    # --- listening ---------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, who: str) -> Iterator[None]:
        """Listen for a while; keeps the feed going.

        Raises:
            TooManyListeners: all places are taken, or the person has too many.
        """
        if self._listeners.total() >= MOST_LISTENERS or self._listeners[who] >= MOST_PER_PERSON:
            raise TooManyListeners("Too many live boards are open.", "Close some of them; this one asks again from time to time.")
        self._listeners[who] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        finally:
            self._listeners[who] -= 1
            self._listeners += Counter()

    def wake(self) -> None:
        """Let everyone who listens look around: there is something new, or one of them has left."""
        if self._news is not None:
            self._news.set()
        self._news = asyncio.Event()

    async def after(self, seen: Shown, seconds: float, gone: Callable[[], bool] = lambda: False) -> Shown:
        """The next look after this one; the same one where none came in time, or where the listener is gone."""
        deadline = time.monotonic() + seconds
        while True:
            if self._news is None:
                self._news = asyncio.Event()
            news = self._news
            if self._shown is not None and self._shown.number > seen.number:
                return self._shown
            left = deadline - time.monotonic()
            if left <= 0 or gone():
                return seen
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), left)

    async def _run(self) -> None:
        told = 0
        while self._listeners:
            try:
                shown = await self.now()
            except Exception:
                log.exception("the board cannot be looked at")
                await asyncio.sleep(self._slow)
                continue
            if shown.number != told:
                told = shown.number
                self.wake()
            # The first look of a large lab takes longer than the rest.
            await asyncio.sleep(max(self._period, MOST_SHARE * self._spent - self._period))


@functools.lru_cache(maxsize=8)
def feed_of(file: str) -> Feed:
    """The feed of the lab that this lab.yaml describes; one per process and file."""
    return Feed(file)

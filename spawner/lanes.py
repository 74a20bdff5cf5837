"""Lanes: calls of one name run one after the other, calls of different names side by side.

Owns the threads and the queues. Never knows what a call does. A cancelled start's call into the engine cannot be called back:
its thread runs on, and whatever comes next for the same container must wait for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lanes:
    """Many named lanes on one pool of threads; a lane without calls costs nothing.

    Args:
        threads: how many lanes may move at once; one that hangs in a stalled engine holds one of them.
    """

    def __init__(self, threads: int = 64) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def submit(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call behind all earlier ones of the same name."""
        future: Future[T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            moving = name in self._waiting
            self._waiting.setdefault(name, deque()).append(call)
        if not moving:
            self._pool.submit(self._move, name)
        return future

    def busy(self) -> int:
        """How many lanes have calls."""
        with self._lock:
            return len(self._waiting)

    def _move(self, name: str) -> None:
        while True:
            with self._lock:
                queue = self._waiting[name]
                if not queue:
                    # Under the lock: a call that is queued now starts the lane anew.
                    del self._waiting[name]
                    return
                call = queue.popleft()
            call()


class Lane:
    """One lane, in the shape of an executor."""

    def __init__(self, lanes: Lanes, name: str) -> None:
        self._lanes = lanes
        self._name = name

    def submit(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call."""
        return self._lanes.submit(self._name, function, *args, **kwargs)

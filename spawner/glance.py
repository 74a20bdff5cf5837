"""One look at all of a lab's containers, shared by everyone who asks within a moment.

Owns the look and how long it is good for. Says *running* from it and nothing else: whatever does not look like running is asked
of the engine again by itself, so that a look from before a start never says *absent*. Never ends or changes anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from spawner.errors import EngineError
from spawner.model import Presence

log = logging.getLogger(__name__)

GOOD_SECONDS = 2.0


class EngineLike(Protocol):
    """What a glance needs of an engine."""

    def presence(self, lease_id: str) -> Presence: ...  # noqa: D102  (the engine documents it)
    def survey(self, lab: str) -> Mapping[str, Presence]: ...  # noqa: D102


class Glance:
    """The labs' containers as they were at most two seconds ago; safe to use from several threads.

    Args:
        engine: whom to ask.
        lab: name of the lab.
        clock: seconds that only grow.
    """

    def __init__(self, engine: EngineLike, lab: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._lab = lab
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Mapping[str, Presence] | None = None
        self._until = clock()

    def presence(self, lease_id: str) -> Presence:
        """What the engine says about the container of a lease; *unknown* instead of an exception."""
        seen = self._look()
        if seen is None:
            return Presence.UNKNOWN
        if seen.get(lease_id) is Presence.RUNNING:
            return Presence.RUNNING
        return self._engine.presence(lease_id)

    def _look(self) -> Mapping[str, Presence] | None:
        # Under the lock: whoever comes while one looks waits for that look. An engine that stalls is then asked once and not by
        # every lab, and each hears *unknown*.
        with self._lock:
            began = self._clock()
            if began >= self._until:
                try:
                    self._seen = self._engine.survey(self._lab)
                except EngineError as error:
                    log.warning("the labs' containers cannot be seen: %s", error)
                    self._seen = None
                    began = self._clock()
                self._until = began + GOOD_SECONDS
            return self._seen

"""Runs one short command inside a container, and takes what it prints, for a bounded time and up to a bounded length.

Owns the patience with what runs inside a lab, where somebody may stop or replace any program: an answer in time, or none. While
a command hangs in a container, none is started beside it. Never judges an answer.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from spawner.engine import Engine, translated
from spawner.errors import EngineRefused

MOST_BYTES = 4096
_HEADER = 8
log = logging.getLogger("gpulab.reclaim")


class Asker:
    """Asks inside containers; remembers which command has not ended in which.

    Args:
        engine: the containers'.
        seconds: how long an answer may take.
    """

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._open: dict[str, str] = {}
        self._lock = threading.Lock()

    def ask(self, container: str, command: Sequence[str]) -> tuple[int | None, str]:
        """Exit code and output of a command.

        The code is None where it did not end in time or printed too much, or where an earlier one has not ended yet.

        Raises:
            EngineError: the engine does not answer.
            KeyError: or says nonsense.
        """
        with translated("ask inside a lab's container"):
            client = self._engine.quick
            if self._hangs(client, container):
                return None, ""
            made = str(client.exec_create(container, list(command))["Id"])
            with self._lock:
                self._open[container] = made
            stream = client.exec_start(made, socket=True)
            try:
                heard = listen(stream, self._seconds)
            finally:
                _close(stream)
            if heard is None:
                log.warning("a command in container %s does not end or prints too much; it is left there", container[:12])
                return None, ""
            told = client.exec_inspect(made)
        if not told.get("Running"):
            self._ended(container)
        return told["ExitCode"], _unframed(heard).decode("utf-8", "replace")

    def forget_all_but(self, containers: Iterable[str]) -> None:
        """Forget containers that are gone."""
        known = set(containers)
        with self._lock:
            self._open = {name: made for name, made in self._open.items() if name in known}

    def _hangs(self, client: Any, container: str) -> bool:
        with self._lock:
            made = self._open.get(container)
        if made is None:
            return False
        try:
            with translated("look at a command inside a lab's container"):
                if client.exec_inspect(made).get("Running"):
                    return True
        except EngineRefused:
            # The engine has forgotten it, which it does only after its end.
            log.debug("the command in container %s is not known any more", container[:12])
        self._ended(container)
        return False

    def _ended(self, container: str) -> None:
        with self._lock:
            self._open.pop(container, None)


def listen(stream: Any, seconds: float, most: int = MOST_BYTES) -> bytes | None:
    """What comes out of a connection until the other side ends it; None where that takes too long or becomes too much.

    Not docker-py's own reading, which waits without any limit.

    Raises:
        OSError: the connection broke.
    """
    ends = time.monotonic() + seconds
    heard = b""
    while (left := ends - time.monotonic()) > 0:
        if not _ready(stream, left):
            return None
        piece = stream.recv(most) if hasattr(stream, "recv") else stream.read(most)
        if not piece:
            return heard
        heard += piece
        if len(heard) > most:
            return None
    return None


def _ready(stream: Any, seconds: float) -> bool:
    # TLS may have taken from the connection what was not asked for yet.
    if hasattr(stream, "pending") and stream.pending():
        return True
    poll = select.poll()
    poll.register(stream, select.POLLIN | select.POLLPRI)
    return bool(poll.poll(max(1, int(seconds * 1000))))


def _close(stream: Any) -> None:
    # The answer that the connection came with keeps it open otherwise.
    if (answer := getattr(stream, "_response", None)) is not None:
        answer.close()
    stream.close()


def _unframed(heard: bytes) -> bytes:
    """The output alone: before each piece of it, the engine says from which stream it is and how long."""
    parts = []
    while len(heard) >= _HEADER:
        size = int.from_bytes(heard[4:_HEADER], "big")
        parts.append(heard[_HEADER : _HEADER + size])
        heard = heard[_HEADER + size :]
    return b"".join(parts)

"""A relay in front of a Docker engine's socket that knows each call and its caller, and can catch one of them.

Owns a thread that forwards bytes and a record of the calls. A caught call is held either before the engine got it or after the
engine answered it and before the caller hears it; then it is let go, or lost with its connection. Never changes a byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_REQUEST = re.compile(rb"(GET|POST|DELETE|PUT|HEAD) (\S+) HTTP/1\.1\r\n")
_ID = re.compile(r"\b[0-9a-f]{64}\b")


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Phase(Enum):
    """Where a caught call is held."""

    BEFORE = "before"  # the engine has not heard of it
    AFTER = "after"  # the engine has answered, and its caller has not heard

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Call:
    """One call: who made it, and what it is without the ids that differ each time.

    Attributes:
        pid: process id of the caller.
        what: method and path, as `POST /containers/*/start`; a list is told apart by what it is asked for.
        text: the whole request line, unquoted.
    """

    pid: int
    what: str
    text: str


@dataclass
class Trap:
    """Waits for the n-th call of a kind by one process."""

    pid: int
    what: str
    number: int
    phase: Phase
    seen: int = 0
    caught: threading.Event = field(default_factory=threading.Event)
    # Set by the test: forward what is held, or drop it.
    decided: threading.Event = field(default_factory=threading.Event)
    lost: bool = False

    def let_go(self) -> None:
        """What is held goes on."""
        self.decided.set()

    def lose(self) -> None:
        """What is held never arrives."""
        self.lost = True
        self.decided.set()


class Lost(ConnectionError):
    """A held call was to get lost."""


class WatchedRelay:
    """A unix socket that forwards to the engine's.

    Args:
        path: where to listen.
        target: path of the engine's socket.
    """

    def __init__(self, path: Path, target: str = "/var/run/docker.sock") -> None:
        self.path = path
        self._target = target
        self._calls: list[Call] = []
        self._trap: Trap | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="watched-relay")
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> WatchedRelay:
        self._thread.start()
        assert self._ready.wait(20), "the relay did not listen"
        return self

    def __exit__(self, *_exc: object) -> None:
        self.disarm()
        assert self._stop
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    # --- for the test ----

    def calls(self, pid: int, since: int = 0) -> list[Call]:
        """The calls that this process has made, from the `since`-th on."""
        with self._changed:
            return [call for call in self._calls if call.pid == pid][since:]

    def wait_for_call(self, pid: int, what: str, since: int, seconds: float = 20) -> None:
        """Wait until this process has made such a call after its `since`-th."""
        with self._changed:
            made = self._changed.wait_for(lambda: any(call.what == what for call in self.calls(pid, since)), seconds)
        assert made, f"no call {what!r} within {seconds:g} s, only {[call.what for call in self.calls(pid, since)]}"

    def arm(self, pid: int, what: str, number: int, phase: Phase) -> Trap:
        """Catch the `number`-th call of this kind from now on."""
        self.disarm()
        trap = Trap(pid, what, number, phase)
        with self._changed:
            self._trap = trap
        return trap

    def disarm(self) -> None:
        """Catch nothing, and let go what is held."""
        with self._changed:
            trap, self._trap = self._trap, None
        if trap:
            trap.let_go()

    def lose(self) -> None:
        """Catch nothing, and lose what is held."""
        with self._changed:
            trap, self._trap = self._trap, None
        if trap:
            trap.lose()

    # --- the thread ----

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.ensure_future(self._relay(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await asyncio.start_unix_server(connected, self.path)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            pid, _, _ = struct.unpack("3i", writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            try:
                far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            except OSError:
                return
            with contextlib.closing(far_writer):
                await self._forward(pid, (reader, writer), (far_reader, far_writer))

    async def _forward(self, pid: int, near: _Ends, far: _Ends) -> None:
        # Which trap, if any, waits for the answer to the request that this connection carries now.
        waiting: list[Trap] = []

        async def requests(data: bytes) -> None:
            if trap := self._note(pid, data):
                if trap.phase is Phase.BEFORE:
                    await self._hold(trap)
                else:
                    waiting.append(trap)

        async def answers(_data: bytes) -> None:
            if waiting:
                await self._hold(waiting.pop())

        both = [asyncio.ensure_future(_pump(near[0], far[1], requests)), asyncio.ensure_future(_pump(far[0], near[1], answers))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def _note(self, pid: int, data: bytes) -> Trap | None:
        if not (found := _REQUEST.match(data)):
            return None
        method, target = found[1].decode(), urlsplit(unquote(found[2].decode()))
        path = _ID.sub("*", re.sub(r"^/v[0-9.]+", "", target.path))
        kind = next((f" by {word}" for word in ("lease", "lab") if f"io.gpulab.{word}=" in target.query), "")
        call = Call(pid, f"{method} {path}{kind}", unquote(found[2].decode()))
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
            trap = self._trap
            if trap is None or trap.caught.is_set() or (trap.pid, trap.what) != (pid, call.what):
                return None
            trap.seen += 1
            return trap if trap.seen == trap.number else None

    async def _hold(self, trap: Trap) -> None:
        trap.caught.set()
        while not trap.decided.is_set():
            await asyncio.sleep(0.005)
        if trap.lost:
            raise Lost


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], Coroutine[Any, Any, None]]
) -> None:
    while data := await reader.read(65536):
        await look(data)
        writer.write(data)
        await writer.drain()
    writer.write_eof()

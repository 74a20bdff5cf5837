"""A command inside a lab is given a bounded time and a bounded length; one that hangs is alone in its lab."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from spawner.asking import Asker
from spawner.engine import Engine
from spawner.errors import EngineUnknown

CONTAINER = "c" * 64
UPGRADED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


def frame(text: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


class StubEngine:
    """An engine behind a socket whose commands behave as a test says: well, silent, drip or flood."""

    def __init__(self, folder: Path) -> None:
        self.behaviour = "well"
        self.running = False
        self.known = True
        self.made = 0
        self.over = threading.Event()
        self.hung_up = threading.Event()
        self.path = folder / "engine.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(5)
        threading.Thread(target=self._serve, daemon=True).start()

    def asker(self, seconds: float) -> Asker:
        engine = Engine()
        engine._clients["answer"] = docker.APIClient(base_url=f"unix://{self.path}", version="1.41", timeout=5)
        self.engine = engine
        return Asker(engine, seconds)

    def close(self) -> None:
        self.over.set()
        self.engine.close()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                while (line := _request(connection)) is not None:
                    if line.endswith("/start"):
                        connection.sendall(UPGRADED)
                        self._run(connection)
                        return
                    self._answer(connection, line)
            except OSError:
                self.hung_up.set()

    def _answer(self, connection: socket.socket, path: str) -> None:
        body, status = b'{"Id": "e"}', b"200 OK"
        if path.endswith("/exec"):
            self.made += 1
        elif not self.known:
            body, status = b'{"message": "No such exec instance"}', b"404 Not Found"
        else:
            code = b"null" if self.running else b"9"
            body = b'{"Running": %s, "ExitCode": %s}' % (b"true" if self.running else b"false", code)
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        connection.sendall(head + body)

    def _run(self, connection: socket.socket) -> None:
        # The reader takes the headers first: what comes with them in one piece is docker-py's to lose.
        self.over.wait(0.1)
        if self.behaviour == "well":
            connection.sendall(frame(b"gone ") + frame(b"\xff", 2))
            return
        self.running = True
        piece = {"silent": b"", "drip": frame(b"."), "flood": frame(b"x" * 60_000)}[self.behaviour]
        while not self.over.wait(0 if self.behaviour == "flood" else 0.05):
            connection.sendall(piece)
            if not piece:
                connection.settimeout(30)
                if not connection.recv(1):
                    self.hung_up.set()
                    return


def _request(connection: socket.socket) -> str | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := connection.recv(65536)):
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head.split(b" ")[1].decode()


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[StubEngine]:
    made = StubEngine(tmp_path)
    yield made
    made.close()


def test_a_command_that_ends_is_heard_to_its_end(stub: StubEngine):
    asker = stub.asker(20)
    assert asker.ask(CONTAINER, ["x"]) == (9, "gone \ufffd")
    assert asker.ask(CONTAINER, ["x"]) == (9, "gone \ufffd")
    assert stub.made == 2


@pytest.mark.parametrize(("behaviour", "seconds"), [("silent", 0.5), ("drip", 0.5), ("flood", 60)])
def test_one_that_hangs_or_floods_is_left_in_time_and_stays_alone(stub: StubEngine, caplog, behaviour: str, seconds: float):
    caplog.set_level(logging.INFO, "gpulab.reclaim")
    stub.behaviour = behaviour
    asker = stub.asker(seconds)
    began = time.monotonic()
    assert asker.ask(CONTAINER, ["x"]) == (None, "")
    assert stub.hung_up.wait(10), "the connection was closed"
    assert asker.ask(CONTAINER, ["x"]) == (None, "")
    assert time.monotonic() - began < 15
    assert (stub.made, caplog.text.count("does not end or prints too much")) == (1, 1)
    # Another lab is asked all the same, and this one again when the command has ended.
    stub.behaviour, stub.running = "well", False
    assert asker.ask("d" * 64, ["x"])[0] == 9
    assert asker.ask(CONTAINER, ["x"])[0] == 9
    assert stub.made == 3


def test_one_that_the_engine_has_forgotten_has_ended(stub: StubEngine):
    stub.behaviour = "silent"
    asker = stub.asker(0.3)
    asker.ask(CONTAINER, ["x"])
    stub.known = False
    with pytest.raises(EngineUnknown, match="does not answer"):
        _broken(stub, asker)
    assert stub.made == 1
    stub.behaviour = "silent"
    assert asker.ask(CONTAINER, ["x"]) == (None, "")
    assert stub.made == 2


def _broken(stub: StubEngine, asker: Asker) -> None:
    kept = stub.engine._clients["answer"]
    stub.engine._clients["answer"] = docker.APIClient(base_url=f"unix://{stub.path}.none", version="1.41", timeout=1)
    try:
        asker.ask(CONTAINER, ["x"])
    finally:
        stub.engine._clients["answer"].close()
        stub.engine._clients["answer"] = kept

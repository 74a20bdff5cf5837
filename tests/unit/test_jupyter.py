"""What a lab's Jupyter server says is a stranger's word: bounded in time and size, and unknown where it is odd."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from spawner.model import Holder
from spawner.services import jupyter
from spawner.services.jupyter import Kernels
from spawner.vitals import Inside

USED = "2026-01-05T08:00:00.000000Z"
KERNELS = json.dumps([{"id": "k", "execution_state": "busy", "last_activity": USED}])
WHEN = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)


def http(body: str, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n{body}".encode()


@contextlib.contextmanager
def server(answers: dict[str, bytes], drip: float = 0) -> Iterator[tuple[int, list[str]]]:
    """A server that answers each path with bytes, and one that is unknown with 404; `drip` seconds between two bytes."""
    listening = socket.create_server(("127.0.0.1", 0))
    heard: list[str] = []
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = connection.recv(65536).decode()
            heard.append(request)
            answer = answers.get(request.split()[1], http("{}", "404 Not Found"))
            if not drip:
                connection.sendall(answer)
                return
            for byte in answer:
                connection.sendall(bytes([byte]))
                if over.wait(drip):
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1], heard
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def ask(monkeypatch, port: int, holder: Holder | None = None, token: str = "own") -> Kernels | None:
    monkeypatch.setattr(jupyter, "PORT", port)
    return jupyter.ask({"k": (holder or Holder("ana"), Inside(1, "127.0.0.1", token))}).get("k")


def test_kernels_and_terminals_are_asked_with_the_labs_own_token(monkeypatch):
    terminals = json.dumps([{"name": "1", "last_activity": "2026-01-05T08:00:00Z"}])
    paths = {"/user/ana%20b/train/api/kernels": http(KERNELS), "/user/ana%20b/train/api/terminals": http(terminals)}
    with server(paths) as (port, heard):
        assert ask(monkeypatch, port, Holder("ana b", "train")) == Kernels(1, WHEN)
    assert all("Authorization: token own" in request for request in heard)
    assert len(heard) == 2


def test_a_lab_without_terminals_is_no_riddle(monkeypatch):
    with server({"/user/ana/api/kernels": http("[]")}) as (port, _):
        assert ask(monkeypatch, port) == Kernels(0, None)


@pytest.mark.parametrize(
    "answer",
    [
        http("{}", "500 Oh"),
        http("", "302 Found", "Location: http://127.0.0.1:1/\r\n"),
        http("not json"),
        http("{}"),
        http("[1]"),
        http('[{"execution_state": "idle"}]'),
        http('[{"execution_state": 3, "last_activity": "x"}]'),
        http('[{"execution_state": "idle", "last_activity": "yesterday"}]'),
        http("[" * 100_000),
        http(json.dumps([{"execution_state": "idle", "last_activity": USED}] * 11_000)),
        http("[" + " " * (2 << 20) + "]"),
        b"nonsense",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(16),
)
def test_an_odd_answer_is_unknown(monkeypatch, answer):
    with server({"/user/ana/api/kernels": answer}) as (port, _):
        assert ask(monkeypatch, port) is None


def test_a_lab_that_drips_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(jupyter, "CALL_SECONDS", 0.5)
    with server({"/user/ana/api/kernels": http(KERNELS)}, drip=0.1) as (port, _):
        began = time.monotonic()
        assert ask(monkeypatch, port) is None
        assert time.monotonic() - began < 5


def test_a_lab_without_address_or_token_is_not_asked(monkeypatch):
    with server({"/user/ana/api/kernels": http("[]")}) as (port, heard):
        assert ask(monkeypatch, port, token="") is None
        assert jupyter.ask({"k": (Holder("ana"), Inside(1, "", "own"))}) == {}
    assert heard == []
    assert jupyter.ask({}) == {}

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from defectlab import lease

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)


class Hub(HTTPServer):
    """Answers what it is told to, and remembers who asked for what."""

    answer: bytes = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str | None]] = []

    def env(self) -> dict[str, str]:
        api = f"http://127.0.0.1:{self.server_port}/hub/api"
        return {"JUPYTERHUB_API_URL": api, "JUPYTERHUB_API_TOKEN": "mine", "GPULAB_LEASE": "a"}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def labs(ends: str | None) -> bytes:
    return json.dumps({"labs": [{"lease": "b", "ends": "2030-01-01T00:00:00+00:00"}, {"lease": "a", "ends": ends}]}).encode()


def test_it_tells_the_end_of_this_lab_in_words(hub: Hub) -> None:
    hub.answer = labs((NOW + timedelta(hours=3, minutes=20)).isoformat())
    assert lease.end(hub.env(), NOW) == "2026-01-05 11:20 UTC, in 3 h 20 min"
    assert hub.asked == [("/hub/api/gpus/notices", "token mine")]


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_token_goes_to_no_proxy(hub: Hub, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    hub.answer = labs(None)
    assert lease.end(hub.env(), NOW) == lease.NO_END


@pytest.mark.parametrize("answer", [b"", b"{}", b"[1]", b'{"labs": [{"lease": "a", "ends": "soon"}]}', b'{"labs": [7]}'])
def test_a_hub_that_says_something_else_costs_nothing(hub: Hub, answer: bytes) -> None:
    hub.answer = answer
    assert lease.end(hub.env(), NOW) == lease.SILENT


def test_a_hub_that_is_away_costs_nothing(hub: Hub) -> None:
    env = hub.env() | {"JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api"}
    assert lease.end(env, NOW) == lease.SILENT


def test_without_a_hub_nobody_is_asked() -> None:
    assert lease.end({}, NOW) == lease.NO_HUB
    assert lease.end({"JUPYTERHUB_API_URL": "file:///etc", "JUPYTERHUB_API_TOKEN": "t", "GPULAB_LEASE": "a"}) == lease.NO_HUB


def test_an_end_that_is_past_is_now() -> None:
    assert lease.told(NOW, NOW + timedelta(minutes=5)).endswith("in 0 min")

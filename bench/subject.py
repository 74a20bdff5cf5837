"""What is measured, as the measurement sees it: users are let in, started, stopped and forgotten.

Owns the protocol and the talk with a JupyterHub over REST, the same words for every hub. Never starts a hub.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import requests

START_SECONDS = 300
STOP_SECONDS = 120
POLL_SECONDS = 0.1


class BenchError(Exception):
    """One sentence for the person at the terminal."""


class Subject(Protocol):
    """Something that gives each user a notebook server. All methods but `start` and `stop` are outside the clock."""

    name: str
    occasions: tuple[str, ...]

    def admit(self, users: Sequence[str]) -> None:
        """Let these users exist."""

    def start(self, user: str) -> None:
        """Start the user's server; returns when it is ready."""

    def stop(self, user: str) -> None:
        """Stop the user's server; returns when it is stopped."""

    def containers(self, users: Collection[str]) -> dict[str, str]:
        """User → the engine's id of her running container."""

    def roots(self) -> list[int]:
        """Processes whose trees belong to the subject."""

    def forget(self, users: Collection[str]) -> None:
        """Remove what these users left in the engine."""


class HubApi:
    """A JupyterHub's REST API.

    Args:
        url: the hub's public address; requests go through its proxy, as a browser's do.
        tokens: token per user; the key '' stands for everybody else.
        options: the `user_options` of every start.
    """

    def __init__(self, url: str, tokens: Mapping[str, str], options: Mapping[str, Any]) -> None:
        self.url = url
        self.tokens = tokens
        self.options = dict(options)

    def call(self, method: str, path: str, user: str = "", **kwargs: Any) -> requests.Response:
        """One request with the user's token.

        Raises:
            BenchError: the hub refuses or does not answer.
        """
        token = self.tokens.get(user) or self.tokens[""]
        headers = {"Authorization": f"token {token}"}
        kwargs.setdefault("timeout", START_SECONDS)
        try:
            answer = requests.request(method, f"{self.url}/hub/api{path}", headers=headers, **kwargs)
        except requests.RequestException as error:
            raise BenchError(f"{method} {path} was not answered: {error}") from error
        if not answer.ok:
            raise BenchError(f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}")
        return answer

    def start(self, user: str) -> None:
        """POST, and wait until the hub calls the server ready.

        The hub answers a quick start with 201 when it is ready. A slow one gets 202, and the hub's event stream says the
        moment: nothing is polled, so that waiting costs the hub nothing.

        Raises:
            BenchError: the start failed.
        """
        answer = self.call("POST", f"/users/{user}/server", user, json={"user_options": self.options})
        if answer.status_code == 201:
            return
        with self.call("GET", f"/users/{user}/server/progress", user, stream=True) as stream:
            await_ready(user, stream.iter_lines(decode_unicode=True))

    def stop(self, user: str) -> None:
        """DELETE, and wait until the hub calls the server stopped.

        Raises:
            BenchError: it does not stop.
        """
        if self.call("DELETE", f"/users/{user}/server", user).status_code == 204:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not self.call("GET", f"/users/{user}", user).json()["servers"]:
                return
            time.sleep(POLL_SECONDS)
        raise BenchError(f"The server of {user} did not stop within {STOP_SECONDS} s.")


def await_ready(user: str, lines: Iterable[str]) -> None:
    """Read a stream of progress events until one says ready.

    Raises:
        BenchError: an event says failed, or the stream ends.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        event = json.loads(line.removeprefix("data:"))
        if event.get("ready"):
            return
        if event.get("failed"):
            raise BenchError(f"The server of {user} did not start: {event.get('message', 'no reason given')}")
    raise BenchError(f"The hub ended the progress of {user} without a result.")

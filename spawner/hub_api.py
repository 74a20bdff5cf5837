"""What the command line asks of a running hub, over its REST API.

Owns where the hub's address and the command line's own token are found, the calls, their time limit, and one sentence for
each way they can fail. Never starts a hub, and never prints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from spawner.auth import SIGN_IN_PATH
from spawner.errors import LabError
from spawner.model import LabConfig

ANSWER_SECONDS = 20.0


class HubError(LabError):
    """The hub did not do what the command line asked."""

    reason = "hub"


@dataclass(frozen=True, slots=True)
class Minted:
    """A sign-in token as the hub handed it out.

    Attributes:
        name: the person, in the hub's spelling.
        token: the secret; nobody can ask for it again.
        created: the person is new.
        admin: the person is an admin.
    """

    name: str
    token: str
    created: bool
    admin: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """What was taken away.

    Attributes:
        name: the person, in the hub's spelling.
        count: tokens and sessions.
        running: names of the person's labs that go on.
    """

    name: str
    count: int
    running: tuple[str, ...]


def url_file(config: LabConfig) -> Path:
    """File with the public URL of the hub that was started last."""
    return config.state / "state" / "hub.url"


def token_file(config: LabConfig) -> Path:
    """File with the command line's own token."""
    return config.state / "secrets" / "cli_token"


class HubApi:
    """One hub's REST API, as the service `gpulab-cli`.

    Args:
        url: public URL of the hub, without a slash at its end.
        token: the service's token.
        seconds: time limit of each call.
    """

    def __init__(self, url: str, token: str, seconds: float = ANSWER_SECONDS) -> None:
        self.url = url
        self._seconds = seconds
        self._session = requests.Session()
        # Neither a proxy for the internet nor a .netrc has any business between us and our own hub.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"token {token}"

    @classmethod
    def of(cls, config: LabConfig, seconds: float = ANSWER_SECONDS) -> HubApi:
        """The hub that was started last from this lab.yaml.

        Raises:
            HubError: none was, or its files belong to somebody else.
        """
        return cls(_read(url_file(config)), _read(token_file(config)), seconds)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def answers_as_ours(self) -> bool:
        """Whether a hub answers that knows our token: this lab's, and no stranger on its port."""
        try:
            return bool(self._call("GET", "user").get("name") == "gpulab-cli")
        except HubError:
            return False

    def mint(self, name: str, *, admin: bool, one_time: bool, seconds: int) -> Minted:
        """Have a sign-in token made, and the person where they are new.

        Raises:
            HubError: the hub refused or did not answer.
        """
        body = {"admin": admin, "one_time": one_time, "expires_in": seconds}
        answer = self._call("POST", _sign_in(name), body)
        try:
            return Minted(str(answer["name"]), str(answer["token"]), bool(answer["created"]), bool(answer["admin"]))
        except KeyError:
            raise self._nonsense() from None

    def revoke(self, name: str) -> Revoked:
        """Take all of a person's tokens and sessions away.

        Raises:
            HubError: there is no such person, or the hub refused or did not answer.
        """
        answer = self._call("DELETE", _sign_in(name))
        try:
            return Revoked(str(answer["name"]), int(answer["revoked"]), tuple(map(str, answer["running"])))
        except (KeyError, TypeError, ValueError):
            raise self._nonsense() from None

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, f"{self.url}/hub/api/{path}", json=body, timeout=self._seconds, allow_redirects=False
            )
        except requests.Timeout:
            raise HubError(f"The hub at {self.url} did not answer within {self._seconds:g} s.", "Look at: make logs") from None
        except (requests.RequestException, ValueError):
            raise HubError(f"The hub does not answer at {self.url}.", "Start it with: make up") from None
        try:
            data = answer.json()
        except (json.JSONDecodeError, requests.JSONDecodeError):
            data = None
        if not isinstance(data, dict):
            raise self._nonsense()
        if not answer.ok:
            raise self._refusal(answer.status_code, str(data.get("message", ""))[:300])
        return data

    def _refusal(self, status: int, message: str) -> HubError:
        if status == 403:
            return HubError(
                f"The hub at {self.url} does not know this lab's command line.",
                "Start it from this checkout: make restart",
            )
        return HubError(message or f"The hub at {self.url} refused with status {status}.")

    def _nonsense(self) -> HubError:
        return HubError(f"What answers at {self.url} is not this lab's hub.", "Start it with: make up")


def _sign_in(name: str) -> str:
    return f"{SIGN_IN_PATH}/{quote(name, safe='')}"


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        raise HubError(f"No hub has been started here yet ({path} is missing).", "Start it with: make up") from None
    except PermissionError:
        raise HubError(f"You may not read {path}.", "Run this as the person who started the hub.") from None
    except (OSError, UnicodeError) as error:
        raise HubError(f"{path} cannot be read ({error}).", "Start the hub anew: make restart") from None

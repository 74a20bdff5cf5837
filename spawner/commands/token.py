"""`gpulab token`: makes a person's sign-in token, or takes all of them away.

Owns reading names and durations. Never keeps or logs a token: it is printed once, alone, on standard output.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from spawner import labfile
from spawner.auth import DAY, MAX_TOKEN_SECONDS, NAME_PATTERN, NAME_RULE
from spawner.commands.gpus import opened
from spawner.errors import LabError, RequestError
from spawner.hub_api import HubApi, Minted, Revoked
from spawner.model import LabConfig
from spawner.records import Event

DEFAULT_EXPIRY = "30d"
# A one-time token is typed off a screen within the day.
DEFAULT_ONE_TIME_EXPIRY = "1d"
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNIT = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("token", help="make a sign-in token for a person, or take all of them away", allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="the person; made where new. " + NAME_RULE)
    parser.add_argument("--admin", action="store_true", help="make the person an admin, too")
    parser.add_argument("--one-time", action="store_true", help="good for one browser login only, and not for the REST API")
    parser.add_argument(
        "--expires",
        metavar="TIME",
        help=f"when the token ends: a number and s, m, h, d or w; at most {MAX_TOKEN_SECONDS // DAY}d "
        f"(default: {DEFAULT_EXPIRY}, with --one-time {DEFAULT_ONE_TIME_EXPIRY})",
    )
    parser.add_argument("--revoke", action="store_true", help="take all tokens and browser sessions of the person away")
    parser.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Make a token, or take them away.

    Raises:
        LabError: a word is wrong, or the hub refused or does not answer.
    """
    name = parse_name(words.name)
    if words.revoke and (words.admin or words.one_time or words.expires is not None):
        raise RequestError("--revoke only takes away; it goes with no other option.", f"Run: gpulab token --revoke {name}")
    default = DEFAULT_ONE_TIME_EXPIRY if words.one_time else DEFAULT_EXPIRY
    seconds = parse_duration(default if words.expires is None else words.expires)
    config = labfile.load(words.config, env)
    hub = HubApi.of(config)
    try:
        if words.revoke:
            revoked = hub.revoke(name)
            _record(config, "token.revoked", name, {"tokens": revoked.count})
            print(_told(revoked), file=sys.stderr)
            return 0
        minted = hub.mint(name, admin=words.admin, one_time=words.one_time, seconds=seconds)
    finally:
        hub.close()
    facts = {"admin": minted.admin, "new person": minted.created, "for one login": words.one_time, "ends in": _long(seconds)}
    _record(config, "token.made", name, facts)
    print(_said(minted, hub.url, one_time=words.one_time, seconds=seconds), file=sys.stderr)
    print(minted.token)
    return 0


def _record(config: LabConfig, action: str, name: str, facts: Mapping[str, object]) -> None:
    # What was done is done: a journal that cannot be written is told, and takes nothing back.
    told = {key: value for key, value in facts.items() if value is not False}
    try:
        with opened(config) as ledger:
            if ledger:
                ledger.record(Event(datetime.now(timezone.utc), _who(), action, name, detail=told))
    except LabError as error:
        print(f"The journal does not have this: {error.message}", file=sys.stderr)


def _who() -> str:
    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        account = str(os.getuid())
    return f"{account} on the host"


def parse_name(text: str) -> str:
    """A person's name in the hub's spelling, which is lower case.

    Raises:
        RequestError: the rule for names forbids it.
    """
    # Lower case of ASCII only: some letters of other scripts turn into plain ones, such as the Kelvin sign into a k.
    if not text.isascii() or not re.fullmatch(NAME_PATTERN, text.lower()):
        shown = ascii(text if len(text) <= 70 else text[:70] + "...")
        raise RequestError(f"{shown} cannot be the name of a person.", NAME_RULE)
    return text.lower()


def parse_duration(text: str) -> int:
    """A time such as `30d`, in seconds.

    Raises:
        RequestError: it is not a number and a unit, or too short or too long.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise RequestError(f"{text[:40]!a} is not a time.", "Write a number and s, m, h, d or w, such as 12h or 30d.")
    seconds = int(found[1]) * _UNIT[found[2]]
    if not 1 <= seconds <= MAX_TOKEN_SECONDS:
        raise RequestError(f"A token lives from 1s to {MAX_TOKEN_SECONDS // DAY}d; you asked for {text}.")
    return seconds


def _said(minted: Minted, url: str, *, one_time: bool, seconds: int) -> str:
    who = f"{minted.name} is {'an admin' if minted.admin else 'an engineer'}{', new here' if minted.created else ''}."
    kind = "one login" if one_time else "the login page and the REST API"
    return f"{who} This token is for {kind} at {url}; it ends in {_long(seconds)} and is shown only now:"


def _told(revoked: Revoked) -> str:
    what = f"{revoked.count} tokens and browser sessions" if revoked.count != 1 else "1 token or browser session"
    told = f"Took {what} of {revoked.name} away."
    if revoked.running:
        labs = ", ".join(server or "the default one" for server in revoked.running)
        told += f" Labs that go on: {labs}. An admin can stop them on the hub's admin page."
    return told


def _long(seconds: int) -> str:
    for unit, word in (("d", "day"), ("h", "hour"), ("m", "minute"), ("s", "second")):
        if seconds % _UNIT[unit] == 0:
            count = seconds // _UNIT[unit]
            return f"{count} {word}{'' if count == 1 else 's'}"
    raise AssertionError("every number of seconds is a number of seconds")

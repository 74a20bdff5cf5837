"""Reads `user_options`, from the form and from REST alike, into a `GpuRequest`.

Owns the one place where what a browser or script sent becomes a value. Never looks at what is free and never at
who asks. JupyterHub's REST API skips the form, so nothing may be trusted here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from spawner.errors import RequestError
from spawner.model import GpuRequest, Profile

KEYS = ("profile", "gpus", "wait")
_SHOWN = 40


def parse(raw: object, profiles: Mapping[str, Profile]) -> GpuRequest:
    """Turn raw `user_options` into a request.

    Args:
        raw: what JupyterHub hands over; anything at all may be in it.
        profiles: the menu of lab.yaml.

    Raises:
        RequestError: not a mapping, an unknown key, no or an unknown profile, or a wrong number of GPUs.
    """
    if not isinstance(raw, Mapping):
        raise RequestError(f"user_options is {_kind(raw)}.", 'Send an object, such as {"profile": "cpu"}.')
    for key in raw:
        if key not in KEYS:
            raise RequestError(f"Unknown option {_show(key)}.", f"Allowed: {', '.join(KEYS)}.{_nearest(key, KEYS, ' ')}")
    profile = _profile(raw.get("profile"), profiles)
    gpus, wait = _gpus(raw.get("gpus"), profile), _wait(raw.get("wait"))
    return profile.request(gpus, wait)


def from_form(form: Mapping[str, list[str]]) -> dict[str, Any]:
    """Reduce form data (a list of strings per field) to `user_options`; judges nothing."""
    options: dict[str, Any] = {}
    for key in KEYS:
        if values := form.get(key):
            options[key] = values[0]
    if str(options.get("gpus", "")).isdecimal():
        options["gpus"] = int(options["gpus"][:6])
    if options.get("wait") in ("true", "false"):
        options["wait"] = options["wait"] == "true"
    return options


def _profile(value: object, profiles: Mapping[str, Profile]) -> Profile:
    names = ", ".join(profiles)
    if value is None:
        raise RequestError("No profile was named.", f"Name one of: {names}.")
    if not isinstance(value, str):
        raise RequestError(f"The profile is {_kind(value)}, not a name.", f"Name one of: {names}.")
    if value not in profiles:
        near = _nearest(value, tuple(profiles), " ")
        raise RequestError(f"There is no profile {_show(value)}.", f"Name one of: {names}.{near}")
    return profiles[value]


def _gpus(value: object, profile: Profile) -> int:
    if value is None:
        return profile.gpus
    # bool is an int to Python, but nobody means one GPU by `true`.
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"gpus is {_kind(value)}, not a whole number.", f"Give a number up to {profile.gpus}.")
    if profile.gpus == 0 and value != 0:
        raise RequestError(f"The profile {profile.key!r} has no GPU.", "Choose a GPU profile, or leave gpus out.")
    if profile.gpus and not 1 <= value <= profile.gpus:
        asked = str(value) if abs(value) < 10**6 else "far too many"
        raise RequestError(
            f"You asked for {asked} GPUs; the profile {profile.key!r} gives 1 to {profile.gpus}.",
            f"Ask for at most {profile.gpus}, or choose another profile.",
        )
    return value


def _wait(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return value is not False
    raise RequestError(f"wait is {_kind(value)}.", "It is true (wait in line when no GPU is free) or false.")


def _kind(value: object) -> str:
    names = {
        type(None): "empty", bool: "true or false", int: "a number", float: "a number", str: "text",
        list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), "something else")


def _show(value: object) -> str:
    text = "".join(c if c.isprintable() else "�" for c in str(value)[: _SHOWN + 1])
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _nearest(value: object, names: tuple[str, ...], lead: str) -> str:
    near = difflib.get_close_matches(str(value)[:_SHOWN].lower(), names, n=1, cutoff=0.6)
    return f"{lead}Did you mean {near[0]!r}?" if near else ""

"""Which token opens what: decisions over plain values.

Owns the reading of the login field, the verdict on a token, and which tokens belong to running labs. Never looks anything
up and never knows a token's secret.

    kind        client        session_id     scopes          opens a browser session
    sign-in     jupyterhub    none           inherit         yes
    one-time    jupyterhub    one-time:…     none            yes, once; worth nothing on the REST API
    session     jupyterhub    32 hex digits  none            no: it *is* a session, and its secret is thrown away
    limited     jupyterhub    none           anything else   no: programs, and the labs' own JUPYTERHUB_API_TOKEN
    access      a lab's       32 hex digits  …               no: a browser's way from the hub into a lab
    service     any           …              …               no: it has no person

A person chooses note, scopes and end of a token on `/hub/token`, but never its `session_id`. That is why one-time and
session rows are told by that column.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

HUB_CLIENT = "jupyterhub"
FULL = frozenset({"inherit"})
ONE_TIME_PREFIX = "one-time:"
SESSION_ID = re.compile(r"[0-9a-f]{32}")
# JupyterHub makes tokens of 32 characters and accepts none above 64.
MAX_TOKEN_LENGTH = 64
_TOKEN = re.compile(r"[!-~]{8,64}")


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What the database says about a token that is not expired.

    Attributes:
        personal: it belongs to a person, not to a service.
        client: OAuth client it was issued for; `jupyterhub` for tokens made by hand.
        session_id: browser session it is tied to, or '' for none.
        scopes: its scopes as stored, not expanded.
    """

    personal: bool
    client: str
    session_id: str
    scopes: frozenset[str]


class Verdict(enum.Enum):
    """What a token opens on the login page."""

    SIGN_IN = "sign-in"
    ONE_TIME = "one-time"
    LIMITED = "limited"
    UNKNOWN = "unknown"
    EMPTY = "empty"


def judge(facts: TokenFacts | None) -> Verdict:
    """The verdict on a token; None stands for one that was not found or has expired."""
    if facts is None:
        return Verdict.UNKNOWN
    if not facts.personal or facts.client != HUB_CLIENT:
        return Verdict.LIMITED
    if facts.session_id.startswith(ONE_TIME_PREFIX) and not facts.scopes:
        return Verdict.ONE_TIME
    if not facts.session_id and facts.scopes == FULL:
        return Verdict.SIGN_IN
    return Verdict.LIMITED


def refusal(verdict: Verdict) -> str:
    """What to tell a person whose token opens nothing; never contains the token."""
    return {
        Verdict.EMPTY: "Paste your token first. Your admin makes one for you with: gpulab token NAME.",
        Verdict.LIMITED: "This token is for programs and cannot open a browser session. "
        "Ask your admin for a sign-in token: gpulab token NAME.",
    }.get(verdict, "This token is not known or has expired. Ask your admin for a new one: gpulab token NAME.")


def readable(field: bytes) -> str | None:
    """Read the login field: the token, '' for an empty field, or None for what cannot be a token.

    Blanks and line ends around a pasted token do not count.
    """
    if len(field) > 4 * MAX_TOKEN_LENGTH:
        return None
    try:
        text = field.decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    return text if not text or _TOKEN.fullmatch(text) else None


def belongs_to_lab(scopes: Iterable[str], user: str, servers: Iterable[str]) -> bool:
    """Whether a token can do no more than what a running lab's own token can.

    Taking such a token away would cut a running lab off from the hub. It opens nothing but that lab, whose owner can read
    the lab's own token inside it anyway, so a token forged to look like one wins nothing.
    """
    labs = {f"access:servers!server={user}/{server}" for server in servers}
    scopes = set(scopes)
    return bool(scopes & labs) and scopes <= labs | {"users:activity!user", f"users:activity!user={user}"}

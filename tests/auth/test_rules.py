"""The table of which token opens what, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.auth import rules
from spawner.auth.rules import TokenFacts, Verdict

HEX = "0123456789abcdef0123456789abcdef"


def facts(personal: bool = True, client: str = "jupyterhub", session_id: str = "", scopes: str = "inherit") -> TokenFacts:
    return TokenFacts(personal, client, session_id, frozenset(scopes.split()))


@pytest.mark.parametrize(
    ("token", "verdict"),
    [
        pytest.param(facts(), Verdict.SIGN_IN, id="made by hand, full rights"),
        pytest.param(facts(session_id="one-time:1", scopes=""), Verdict.ONE_TIME, id="one-time"),
        pytest.param(None, Verdict.UNKNOWN, id="not found or expired"),
        pytest.param(facts(personal=False), Verdict.LIMITED, id="a service's token"),
        pytest.param(facts(client="jupyterhub-user-alice"), Verdict.LIMITED, id="access token to a lab"),
        pytest.param(facts(client="jupyterhub-user-alice", session_id=HEX), Verdict.LIMITED, id="access token of a session"),
        pytest.param(facts(client=""), Verdict.LIMITED, id="no client at all"),
        pytest.param(facts(scopes=""), Verdict.LIMITED, id="no scopes and no mark"),
        pytest.param(facts(scopes="read:users!user"), Verdict.LIMITED, id="a CI token"),
        pytest.param(facts(scopes="inherit read:users"), Verdict.LIMITED, id="full rights and then some"),
        pytest.param(facts(scopes="access:servers!server=alice/ users:activity!user=alice"), Verdict.LIMITED, id="a lab's own"),
        pytest.param(facts(session_id=HEX, scopes=""), Verdict.LIMITED, id="a session row"),
        pytest.param(facts(session_id=HEX), Verdict.LIMITED, id="full rights tied to a session"),
        pytest.param(facts(session_id="one-time:1"), Verdict.LIMITED, id="one-time with rights on the REST API"),
        pytest.param(facts(personal=False, session_id="one-time:1", scopes=""), Verdict.LIMITED, id="one-time of a service"),
        pytest.param(facts(client="x", session_id="one-time:1", scopes=""), Verdict.LIMITED, id="one-time of a lab's client"),
    ],
)
def test_judge_opens_a_session_for_two_kinds_only(token: TokenFacts | None, verdict: Verdict) -> None:
    assert rules.judge(token) is verdict


@pytest.mark.parametrize(
    ("field", "token"),
    [
        pytest.param(HEX.encode(), HEX, id="a token"),
        pytest.param(f"  {HEX}\r\n".encode(), HEX, id="pasted with blanks and a line end"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b" \t\r\n", "", id="blanks only"),
        pytest.param(b"a" * 64, "a" * 64, id="as long as JupyterHub takes"),
        pytest.param(b"a" * 65, None, id="one too long"),
        pytest.param(b"a" * 10_000_000, None, id="10 MB"),
        pytest.param(b" " * 10_000_000, None, id="10 MB of blanks"),
        pytest.param(b"short", None, id="too short"),
        pytest.param(b"\0" * 32, None, id="NUL"),
        pytest.param(HEX.encode() + b"\0", None, id="a token and a NUL"),
        pytest.param(f"{HEX[:16]} {HEX[16:]}".encode(), None, id="a blank inside"),
        pytest.param("ẞ".encode() * 10, None, id="letters beyond ASCII"),
        pytest.param("０".encode() * 32, None, id="wide digits"),
        pytest.param(b"\xff\xfe" * 16, None, id="not UTF-8"),
        pytest.param(b"\xed\xa0\x80" * 8, None, id="a lone surrogate"),
    ],
)
def test_readable_takes_tokens_and_nothing_else(field: bytes, token: str | None) -> None:
    assert rules.readable(field) == token


@given(st.binary(max_size=400))
def test_readable_never_fails_and_never_returns_more_than_a_token(field: bytes) -> None:
    text = rules.readable(field)
    assert text is None or (len(text) <= rules.MAX_TOKEN_LENGTH and text.isascii() and text.isprintable() and " " not in text)


@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.LIMITED, Verdict.EMPTY])
def test_refusal_says_what_to_do(verdict: Verdict) -> None:
    assert "gpulab token NAME" in rules.refusal(verdict)


@pytest.mark.parametrize(
    ("scopes", "spared"),
    [
        pytest.param("users:activity!user access:servers!server=alice/", True, id="the default lab's own token"),
        pytest.param("users:activity!user=alice access:servers!server=alice/x", True, id="a named lab's own token"),
        pytest.param("access:servers!server=alice/x", True, id="less than a lab's own"),
        pytest.param("access:servers!server=alice/gone", False, id="a lab that does not run"),
        pytest.param("access:servers!server=bob/", False, id="somebody else's lab"),
        pytest.param("access:servers", False, id="everybody's labs"),
        pytest.param("access:servers!user=alice", False, id="whatever lab comes next"),
        pytest.param("users:activity!user=alice", False, id="activity only"),
        pytest.param("access:servers!server=alice/ tokens!user=alice", False, id="a lab's own and more"),
        pytest.param("inherit", False, id="a sign-in token"),
        pytest.param("", False, id="a session or one-time token"),
    ],
)
def test_belongs_to_lab_spares_nothing_that_opens_more_than_a_running_lab(scopes: str, spared: bool) -> None:
    assert rules.belongs_to_lab(scopes.split(), "alice", ["", "x"]) is spared

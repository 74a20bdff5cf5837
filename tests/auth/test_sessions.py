"""Sessions and one-time tokens on JupyterHub's own tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from jupyterhub import orm, roles
from jupyterhub.utils import utcnow

from spawner.auth import rules, sessions
from spawner.auth.rules import Verdict

HOUR = 3600


@pytest.fixture
def db() -> Iterator[Any]:
    factory = orm.new_session_factory("sqlite:///:memory:")
    session = factory()
    for role in roles.get_default_roles():
        roles.create_role(session, role)
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
def alice(db: Any) -> Any:
    return add_user(db, "alice")


def add_user(db: Any, name: str) -> Any:
    user = orm.User(name=name)
    db.add(user)
    db.commit()
    roles.assign_default_roles(db, entity=user)
    return user


def find(db: Any, secret: str) -> Any:
    return orm.APIToken.find(db, secret)


def verdict(db: Any, secret: str) -> Verdict:
    return rules.judge(sessions.facts(find(db, secret)))


def expire(db: Any, row: Any) -> None:
    row.expires_at = utcnow(with_tz=False) - timedelta(seconds=1)
    db.commit()


def open_with(db: Any, secret: str, *, one_time: bool = False) -> str:
    opened = sessions.open_session(db, find(db, secret), one_time=one_time)
    assert opened is not None
    return opened[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, Verdict.SIGN_IN, id="made on /hub/token without choosing scopes"),
        pytest.param({"note": "One-time sign-in, made by gpulab-cli"}, Verdict.SIGN_IN, id="a note that looks one-time"),
        pytest.param({"note": "Browser session, opened with token a1"}, Verdict.SIGN_IN, id="a note that looks like a session"),
        pytest.param({"scopes": ["read:users!user=alice"]}, Verdict.LIMITED, id="limited to some scopes"),
        pytest.param({"scopes": []}, Verdict.LIMITED, id="limited to nothing"),
    ],
)
def test_what_a_person_can_make_themselves(db: Any, alice: Any, options: dict[str, Any], expected: Verdict) -> None:
    assert verdict(db, alice.new_api_token(**options)) is expected


def test_a_service_token_opens_nothing(db: Any) -> None:
    service = orm.Service(name="cli", admin=True)
    db.add(service)
    db.commit()
    assert verdict(db, service.new_api_token()) is Verdict.LIMITED


def test_an_access_token_to_a_lab_opens_nothing(db: Any, alice: Any) -> None:
    db.add(orm.OAuthClient(identifier="jupyterhub-user-alice", allowed_scopes=["inherit"]))
    db.commit()
    secret = orm.APIToken.new(user=alice, client_id="jupyterhub-user-alice", scopes=["inherit"], session_id="f" * 32)
    assert verdict(db, secret) is Verdict.LIMITED


def test_an_expired_token_is_unknown(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    assert verdict(db, secret) is Verdict.SIGN_IN
    expire(db, find(db, secret))
    assert verdict(db, secret) is Verdict.UNKNOWN


def test_the_secret_is_stored_nowhere(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    row = find(db, secret)
    assert secret not in " ".join(str(value) for value in vars(row).values())


def test_a_session_lives_as_long_as_its_token(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    session_id = open_with(db, secret)
    assert sessions.live(db, alice.id, session_id)
    db.delete(find(db, secret))
    db.commit()
    assert not sessions.live(db, alice.id, session_id)


def test_a_session_ends_when_its_token_expires(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    opened = sessions.open_session(db, find(db, secret), one_time=False)
    assert opened is not None
    assert HOUR - 5 < opened[1] <= HOUR
    expire(db, find(db, secret))
    assert not sessions.live(db, alice.id, opened[0])


def test_a_token_without_end_opens_a_session_with_one(db: Any, alice: Any) -> None:
    opened = sessions.open_session(db, find(db, alice.new_api_token()), one_time=False)
    assert opened is not None
    assert opened[1] == sessions.SESSION_SECONDS


def test_the_number_of_a_dead_token_is_not_given_to_another_while_its_session_lives(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    session_id = open_with(db, secret)
    db.delete(find(db, secret))
    db.commit()
    for _ in range(3):
        sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    assert not sessions.live(db, alice.id, session_id)


def test_a_one_time_token_opens_one_session_and_is_gone(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=True, by="cli")
    assert verdict(db, secret) is Verdict.ONE_TIME
    session_id = open_with(db, secret, one_time=True)
    assert verdict(db, secret) is Verdict.UNKNOWN
    assert sessions.live(db, alice.id, session_id)


def test_of_two_who_found_the_same_one_time_token_one_spends_it(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=True, by="cli")
    row = find(db, secret)
    # Another process of the same database takes it first.
    with db.get_bind().connect() as other:
        other.exec_driver_sql(f"DELETE FROM api_tokens WHERE id = {row.id}")
        other.commit()
    assert sessions.open_session(db, row, one_time=True) is None
    assert db.query(orm.APIToken).count() == 0


def test_a_one_time_token_is_worth_nothing_on_the_rest_api(db: Any, alice: Any) -> None:
    row = find(db, sessions.mint(alice, seconds=HOUR, one_time=True, by="cli"))
    assert row.scopes == []


@pytest.mark.parametrize(
    "session_id",
    [
        pytest.param(None, id="no cookie"),
        pytest.param("", id="empty"),
        pytest.param("0" * 32, id="never opened"),
        pytest.param("x" * 10_000_000, id="10 MB"),
        pytest.param("\0" * 32, id="NUL"),
        pytest.param("é" * 32, id="letters beyond ASCII"),
    ],
)
def test_an_invented_session_is_not_live(db: Any, alice: Any, session_id: str | None) -> None:
    assert not sessions.live(db, alice.id, session_id)


def test_the_mark_of_a_one_time_token_is_not_a_session(db: Any, alice: Any) -> None:
    row = find(db, sessions.mint(alice, seconds=HOUR, one_time=True, by="cli"))
    assert not sessions.live(db, alice.id, row.session_id)


def test_a_session_is_its_owners_only(db: Any, alice: Any) -> None:
    session_id = open_with(db, sessions.mint(alice, seconds=HOUR, one_time=False, by="cli"))
    assert not sessions.live(db, add_user(db, "bob").id, session_id)


def test_the_oldest_sessions_make_room(db: Any, alice: Any) -> None:
    secret = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    opened = [open_with(db, secret) for _ in range(sessions.MOST_SESSIONS + 5)]
    assert [sessions.live(db, alice.id, x) for x in opened] == [False] * 5 + [True] * sessions.MOST_SESSIONS


def test_revoke_takes_everything_but_the_running_labs_own_token(db: Any, alice: Any) -> None:
    bob = add_user(db, "bob")
    db.add(orm.OAuthClient(identifier="jupyterhub-user-alice", allowed_scopes=["inherit"]))
    db.commit()
    sign_in = sessions.mint(alice, seconds=HOUR, one_time=False, by="cli")
    one_time = sessions.mint(alice, seconds=HOUR, one_time=True, by="cli")
    session_id = open_with(db, sign_in)
    limited = alice.new_api_token(scopes=["read:users!user=alice"], note="Server at /user/alice/")
    access = orm.APIToken.new(user=alice, client_id="jupyterhub-user-alice", scopes=["inherit"], session_id=session_id)
    lab_scopes = ["access:servers!server=alice/", "users:activity!user=alice"]
    lab, cookie = alice.new_api_token(scopes=lab_scopes), alice.cookie_id
    others = sessions.mint(bob, seconds=HOUR, one_time=False, by="cli")

    assert sessions.revoke_all(db, alice, [""]) == 5
    assert [find(db, x) for x in (sign_in, one_time, limited, access)] == [None] * 4
    assert not sessions.live(db, alice.id, session_id)
    assert alice.cookie_id != cookie
    assert find(db, lab) is not None
    assert find(db, others) is not None
    # A second time changes nothing; once the lab is gone, its token goes too.
    assert sessions.revoke_all(db, alice, [""]) == 0
    assert sessions.revoke_all(db, alice, []) == 1

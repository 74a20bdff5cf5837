"""Browser sessions as rows of JupyterHub's token table, so that a session can end before its cookie does.

Owns opening, finding and ending them, and spending one-time tokens. Never decides whether a token may sign in. JupyterHub's
login cookie names the person only, and is the same for all of a person's browsers; the row ties the browser's session id
to it. It shows on `/hub/token`, where the person can revoke it, and JupyterHub deletes it on logout.
"""

from __future__ import annotations

import re
import secrets
import uuid
from typing import Any

from jupyterhub import orm

from spawner.auth import DAY, SESSION_DAYS
from spawner.auth.rules import FULL, HUB_CLIENT, ONE_TIME_PREFIX, SESSION_ID, TokenFacts, belongs_to_lab

SESSION_SECONDS = SESSION_DAYS * DAY
# Open sessions of one person; a script that logs in again and again replaces its oldest.
MOST_SESSIONS = 20
_NOTE = "Browser session, opened with token "
_PARENT = re.compile(re.escape(_NOTE) + r"a(\d{1,18})")


def facts(token: Any) -> TokenFacts | None:
    """What the rules need to know about a row of the token table."""
    if token is None:
        return None
    return TokenFacts(
        personal=token.user_id is not None,
        client=token.client_id or "",
        session_id=token.session_id or "",
        scopes=frozenset(token.scopes or ()),
    )


def mint(user: Any, *, seconds: int, one_time: bool, by: str) -> str:
    """Make a sign-in token for a person, and hand out its secret for the first and last time.

    Args:
        user: the person's ORM row.
        seconds: time until it expires.
        one_time: good for one browser login, and for nothing else.
        by: who asked, for the note on `/hub/token`.
    """
    if one_time:
        mark = ONE_TIME_PREFIX + secrets.token_hex(8)
        note = f"One-time sign-in, made by {by}"
        return str(orm.APIToken.new(user=user, scopes=[], session_id=mark, expires_in=seconds, note=note))
    return str(orm.APIToken.new(user=user, scopes=sorted(FULL), expires_in=seconds, note=f"Sign-in, made by {by}"))


def open_session(db: Any, token: Any, *, one_time: bool) -> tuple[str, int] | None:
    """Open a browser session with a token; its new session id, and the seconds it lasts at most.

    A one-time token is spent in the same transaction. None: somebody else spent it first.
    """
    user, parent = token.user, f"{_NOTE}{token.api_id}"
    seconds = SESSION_SECONDS
    if one_time:
        # The database counts: whoever deletes the row has spent it.
        if db.query(orm.APIToken).filter_by(id=token.id).delete() != 1:
            db.rollback()
            return None
        parent = "Browser session, opened with a one-time token"
    elif token.expires_at is not None:
        seconds = max(1, min(seconds, int(token.expires_in)))
    _make_room(db, user)
    session_id = uuid.uuid4().hex
    # The secret of this row is not kept by anyone: it can be found by its session id only.
    orm.APIToken.new(user=user, scopes=[], session_id=session_id, expires_in=seconds, note=parent)
    return session_id, seconds


def live(db: Any, user_id: int, session_id: str | None) -> bool:
    """Whether this browser session of a person is open, and the token that opened it still there."""
    if not session_id or not SESSION_ID.fullmatch(session_id):
        return False
    row = _rows(db, user_id).filter(orm.APIToken.session_id == session_id).first()
    if row is None or row.expired:
        return False
    if not (opened := _PARENT.fullmatch(row.note or "")):
        return True
    # A row's number is not given away again while a younger row, such as this session's, is there.
    parent = db.get(orm.APIToken, int(opened[1]))
    return parent is not None and parent.user_id == user_id and not parent.expired


def revoke_all(db: Any, user: Any, running: list[str]) -> int:
    """Take a person's tokens, sessions and ways into labs away; how many rows that were.

    Only the own tokens of running labs stay: work is not to suffer, and `stop` is another command.

    Args:
        db: the hub's database session.
        user: the person's ORM row.
        running: names of the person's running servers.
    """
    doomed = [t for t in user.api_tokens if not (t.client_id == HUB_CLIENT and belongs_to_lab(t.scopes, user.name, running))]
    for token in doomed:
        db.delete(token)
    for code in db.query(orm.OAuthCode).filter_by(user_id=user.id):
        db.delete(code)
    # The login cookie carries this: no cookie that is out there names the person any more.
    user.cookie_id = orm.new_token()
    db.commit()
    return len(doomed)


def _rows(db: Any, user_id: int) -> Any:
    return db.query(orm.APIToken).filter(orm.APIToken.user_id == user_id, orm.APIToken.client_id == HUB_CLIENT)


def _make_room(db: Any, user: Any) -> None:
    rows = _rows(db, user.id).filter(orm.APIToken.session_id.isnot(None)).order_by(orm.APIToken.id.desc())
    sessions = [row for row in rows if SESSION_ID.fullmatch(row.session_id)]
    for row in sessions[MOST_SESSIONS - 1 :]:
        db.delete(row)

"""The fair share in the ledger: each person's GPU-seconds, which count less the older they are.

Owns the running sum that is brought up to date when a lease is released, so that nothing has to read a long history. The
formulas are `decay`'s. Never decides whose turn it is (`line` does).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import sqlalchemy as sa

from spawner import decay
from spawner.ledger.tables import aware, naive, shares

_OF_USER = sa.select(shares).where(shares.c.user == sa.bindparam("of_user"))
_CHANGE = shares.update().where(shares.c.user == sa.bindparam("of_user"))


def add(connection: sa.Connection, user: str, gpus: int, began: datetime, ended: datetime, half_life: timedelta) -> None:
    """Add what a lease used to a person's sum."""
    if not gpus:
        return
    row = connection.execute(_OF_USER, {"of_user": user}).first()
    before = decay.decayed(row.gpu_seconds, aware(row.at), ended, half_life) if row else 0.0
    total = before + decay.used(gpus, began, ended, ended, half_life)
    if row:
        connection.execute(_CHANGE, {"of_user": user, "gpu_seconds": total, "at": naive(ended)})
    else:
        connection.execute(shares.insert(), {"user": user, "gpu_seconds": total, "at": naive(ended)})


def sums(connection: sa.Connection, users: Iterable[str], now: datetime, half_life: timedelta) -> dict[str, float]:
    """Person → GPU-seconds of ended leases, decayed to now."""
    wanted = sorted(set(users))
    found = {}
    for start in range(0, len(wanted), 500):
        rows = connection.execute(sa.select(shares).where(shares.c.user.in_(wanted[start : start + 500])))
        found.update({row.user: decay.decayed(row.gpu_seconds, aware(row.at), now, half_life) for row in rows})
    return found

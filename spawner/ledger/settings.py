"""Which settings the lab ran with last, so that the journal can tell when somebody changed them.

Owns one note per lab and the entry `lab.configured`. Never knows what a setting means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from spawner.ledger.journal import write_event
from spawner.ledger.store import Store
from spawner.ledger.tables import naive, notes

_KIND = "settings"
UNSET = "not set"
# An entry is bounded: who rewrites the whole file finds the first of the changes and their number.
MOST_CHANGES = 20
MOST_CHARACTERS = 80


class Settings(Store):
    """The part of the ledger that knows what lab.yaml said."""

    def note_settings(self, settings: Mapping[str, str], now: datetime) -> bool:
        """Note the settings of a hub that starts; the journal tells what changed since the last one.

        Args:
            settings: key → value, as they are written.
            now: the present moment.

        Returns:
            Whether something changed. Of the first settings nothing is told.
        """
        with self._transaction() as connection:
            row = connection.execute(sa.select(notes.c.body).where(notes.c.kind == _KIND)).first()
            before: dict[str, str] | None = json.loads(row.body) if row else None
            if before == dict(settings):
                return False
            connection.execute(notes.delete().where(notes.c.kind == _KIND))
            connection.execute(notes.insert().values(kind=_KIND, subject="", at=naive(now), body=json.dumps(dict(settings))))
            if before is None:
                return False
            write_event(connection, now, "lab.yaml", "lab.configured", detail=changes(before, settings))
        return True


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Key → "old → new" of what differs, in the order of the keys; the first few, and how many more."""
    differ = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    told = {key: f"{_short(before.get(key))} → {_short(after.get(key))}" for key in differ[:MOST_CHANGES]}
    if len(differ) > MOST_CHANGES:
        told["and more"] = str(len(differ) - MOST_CHANGES)
    return told


def _short(value: str | None) -> str:
    if value is None:
        return UNSET
    return value if len(value) <= MOST_CHARACTERS else value[: MOST_CHARACTERS - 1] + "…"

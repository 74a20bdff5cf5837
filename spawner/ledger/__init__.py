"""The lease ledger: who holds which GPU and who waits, kept in a database that survives every restart.

Owns intent: leases, tickets, claims, marks, the journal. Never asks the engine or the driver: the engine holds fact, and
`settlement` alone compares them. A released row does not take a GPU from a container; only the container's end does, which is
why `release` is called by `settlement` only.
"""

from __future__ import annotations

from spawner.ledger.care import Care
from spawner.ledger.requests import Admit, Choose, Line, Requests, Turn
from spawner.ledger.settings import Settings
from spawner.ledger.tables import SCHEMA_VERSION
from spawner.ledger.usage import REFUSED, Usage

__all__ = ["REFUSED", "SCHEMA_VERSION", "Admit", "Choose", "Ledger", "Line", "Turn"]


class Ledger(Requests, Usage, Care, Settings):
    """An opened ledger; safe to use from several threads and processes at once.

    All times are aware datetimes in UTC. Every method raises `LedgerError` when the database does not answer.
    """

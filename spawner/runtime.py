"""The opened parts of one lab, bundled: configuration, ledger, engine, inventory and clock.

Owns opening them once per process from the path of lab.yaml. Never decides anything; spawner, services and command line take
their parts from here.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from spawner import labfile
from spawner.engine import Engine
from spawner.inventory import Inventory, detect
from spawner.ledger import Ledger
from spawner.model import LabConfig


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(timezone.utc)


def new_lease_id() -> str:
    """A new lease id: 32 hex digits, random."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Lab:
    """One lab's parts."""

    config: LabConfig
    ledger: Ledger
    engine: Engine
    inventory: Inventory
    clock: Callable[[], datetime] = utc_now
    new_id: Callable[[], str] = new_lease_id

    @property
    def patience(self) -> timedelta:
        """Longest time a start may take before settlement gives it up."""
        return timedelta(seconds=self.config.limits.start_seconds + 10)


@functools.lru_cache(maxsize=8)
def open_lab(file: str) -> Lab:
    """Open the lab that this lab.yaml describes; one per process and file.

    Raises:
        LabError: lab.yaml is not valid, or the ledger cannot be opened. A broken driver is told by each question to the
            inventory instead, so that labs which run are still seen.
    """
    config = labfile.load(file)
    return Lab(config, Ledger.open(config.ledger_url), Engine(), detect(config))

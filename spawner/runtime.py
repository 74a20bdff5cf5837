"""The opened parts of one lab, bundled: configuration, ledger, engine, inventory and clock.

Owns opening them once per process from the path of lab.yaml. Never decides anything; spawner, services and command line take
their parts from here.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from spawner import labfile
from spawner.engine import CALL_SECONDS, Engine
from spawner.inventory import Inventory, detect
from spawner.ledger import Ledger
from spawner.model import Gpu, LabConfig
from spawner.settlement import Patience

log = logging.getLogger(__name__)


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
    def patience(self) -> Patience:
        """How long settlement waits before it acts; each is a little longer than what it waits for."""
        limits = self.config.limits
        return Patience(
            start=timedelta(seconds=limits.start_seconds + limits.http_seconds + 10),
            flight=timedelta(seconds=limits.start_seconds + 10),
            stop=timedelta(seconds=limits.stop_seconds + 5),
        )

    def leasable_gpus(self) -> tuple[Gpu, ...]:
        """Every GPU of the lab, less those that a container without a known lease sits on.

        Such a container is there when an older ledger was put back, or a new one began: what it holds is nobody's to give.

        Raises:
            LabError: inventory, ledger or engine do not answer.
        """
        known = {lease.id for lease in self.ledger.active()}
        in_use = self.engine.gpus_by_lease(self.config.name)
        strange = {uuid for lease_id, uuids in in_use.items() if lease_id not in known for uuid in uuids}
        if strange:
            log.warning("containers without a lease hold %s", ", ".join(sorted(strange)))
        return tuple(gpu for gpu in self.inventory.gpus() if gpu.uuid not in strange)


@functools.lru_cache(maxsize=8)
def open_lab(file: str) -> Lab:
    """Open the lab that this lab.yaml describes; one per process and file.

    Raises:
        LabError: lab.yaml is not valid, or the ledger cannot be opened. A broken driver is told by each question to the
            inventory instead, so that labs which run are still seen.
    """
    config = labfile.load(file)
    # No call may travel longer than a start may take: settlement counts on it.
    engine = Engine(call_seconds=min(CALL_SECONDS, config.limits.start_seconds))
    return Lab(config, Ledger.open(config.ledger_url), engine, detect(config))

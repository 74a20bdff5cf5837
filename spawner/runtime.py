"""The opened parts of one lab, bundled: configuration, ledger, engine, inventory and clock.

Owns opening them once per process from the path of lab.yaml. Never decides anything; spawner, services and command line take
their parts from here.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from spawner import labfile, placement, policy, sharing
from spawner.engine import CALL_SECONDS, Engine
from spawner.errors import LabError
from spawner.glance import Glance
from spawner.inventory import Inventory, detect
from spawner.ledger import Ledger, Line
from spawner.line import Plan, fair_shares
from spawner.line import plan as make_plan
from spawner.model import Gpu, GpuRequest, Holder, LabConfig, Lease, LeaseState
from spawner.records import Grant, Standing, Ticket
from spawner.settlement import Patience, settle_all

log = logging.getLogger(__name__)
CLOSENESS_SECONDS = 900


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
    _kept: dict[int, Mapping[frozenset[str], int]] = field(default_factory=dict, compare=False)

    @functools.cached_property
    def glance(self) -> Glance:
        """A look at all containers, shared by all who ask whether a lab runs."""
        return Glance(self.engine, self.config.name)

    @property
    def patience(self) -> Patience:
        """How long settlement waits before it acts; each is a little longer than what it waits for."""
        limits = self.config.limits
        return Patience(
            start=timedelta(seconds=limits.start_seconds + limits.http_seconds + 10),
            flight=timedelta(seconds=limits.start_seconds + 10),
            stop=timedelta(seconds=limits.stop_seconds + 5),
        )

    def units(self) -> tuple[Gpu, ...]:
        """Every leasable unit of the lab: GPUs, MIG instances, and the seats of shared GPUs.

        Raises:
            InventoryError: the driver does not answer.
        """
        return sharing.units(self.inventory.gpus(), self.config.gpus.sharing)

    def plan(self, line: Line) -> Plan:
        """Whose turn it is, by this lab's rules."""
        now = self.clock()
        shares = fair_shares(line.shares, line.leases, now, self.config.line.half_life)

        def admit(ticket: Ticket, given: Sequence[Lease]) -> Grant:
            user = ticket.holder.user
            standing = line.standings.get(user, Standing())
            more = tuple(lease for lease in given if lease.holder.user == user)
            rule = policy.admit(self.config, ticket.groups)
            return rule(ticket.request, ticket.holder, replace(standing, leases=(*standing.leases, *more)))

        return make_plan(
            line.waiting, line.gpus, line.leases, shares, now, self.config.line, self.config.reclaim, admit, self.place
        )

    def place(self, request: GpuRequest, gpus: Sequence[Gpu], active: Sequence[Lease]) -> tuple[str, ...]:
        """Choose the units of a request, those that are close to each other first.

        Raises:
            NoGpuFree: see `placement.packed`.
        """
        return placement.packed(request, gpus, active, self._closeness() if request.gpus > 1 else None)

    def _closeness(self) -> Mapping[frozenset[str], int]:
        # It changes with the hardware only. A driver that does not tell it costs a good place, not the lab.
        quarter = int(self.clock().timestamp() // CLOSENESS_SECONDS)
        if quarter not in self._kept:
            try:
                links = self.inventory.links()
            except LabError as error:
                log.warning("how close the GPUs are to each other is not known: %s", error)
                links = {}
            self._kept.clear()
            self._kept[quarter] = links
        return self._kept.get(quarter, {})

    def settle_holder(self, holder: Holder, actor: str = "lab") -> None:
        """Have every lab of a holder end, and settle its lease as far as it goes now.

        Raises:
            LabError: the ledger does not answer.
        """
        for lease in self.ledger.active_of(holder):
            self.ledger.drain(lease.id, self.clock(), actor=actor)
        settle_all(self.ledger.active_of(holder), self.ledger, self.engine, self.clock, self.patience)

    def is_ending(self, lease_id: str) -> bool:
        """Whether a lab was asked to end; no where the ledger cannot say."""
        try:
            lease = self.ledger.lease(lease_id)
        except LabError as error:
            log.warning("lease %s is taken for one that goes on: %s", lease_id, error)
            return False
        return lease is not None and lease.state in (LeaseState.DRAINING, LeaseState.RELEASED)

    def leasable_gpus(self) -> tuple[Gpu, ...]:
        """Every unit of the lab, less those that a container without a known lease sits on.

        Such a container is there when an older ledger was put back, or a new one began: what it holds is nobody's to give.

        Raises:
            LabError: inventory, ledger or engine do not answer.
        """
        known = {lease.id for lease in self.ledger.active()}
        in_use = self.engine.gpus_by_lease(self.config.name)
        if not known >= set(in_use):
            # A lease that was acquired while the engine was asked is known by now.
            known |= {lease.id for lease in self.ledger.active()}
        strange = {uuid for lease_id, uuids in in_use.items() if lease_id not in known for uuid in uuids}
        if strange:
            log.warning("containers without a lease hold %s", ", ".join(sorted(strange)))
        taken = {uuid.partition("#")[0] for uuid in strange}
        return tuple(gpu for gpu in self.units() if gpu.device not in taken and gpu.parent not in taken)


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
    ledger = Ledger.open(config.ledger_url)
    ledger.half_life = config.line.half_life
    return Lab(config, ledger, engine, detect(config))

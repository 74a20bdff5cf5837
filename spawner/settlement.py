"""Compares what the ledger promises with what the engine has, and is the only place that gives a GPU back.

Owns the rule (`decide`, a pure function) and its carrying out for one lease (`settle`) or all (`settle_all`).
*Unknown* never frees and never ends anything; only *absent* proves that a container is gone, and while its creation may
still be on the way to the engine even that must be heard twice, with no *unknown* in between: an engine that stood still
may go on with what it was asked before.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from spawner.model import Lease, LeaseState, Presence

log = logging.getLogger(__name__)

# A lab that is removed here has had its time to end, or was never used.
OVERDUE_STOP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long settlement waits before it acts.

    Attributes:
        start: longest time a start may take, from lease to bound.
        flight: longest time a creation may travel to the engine.
        stop: time that a lab which was asked to end has for ending by itself.

    A moment that lies ahead by more than that was written before the clock was set back, and counts as past.
    """

    start: timedelta
    flight: timedelta
    stop: timedelta


class Action(enum.Enum):
    """What settlement does with a lease."""

    KEEP = "keep"
    DRAIN = "drain"
    REMOVE = "remove"
    NOTE_ABSENT = "note_absent"
    FORGET_ABSENT = "forget_absent"
    RELEASE = "release"


class LedgerLike(Protocol):
    """What settlement needs of a ledger."""

    def lease(self, lease_id: str) -> Lease | None: ...  # noqa: D102  (the ledger documents it)
    def answered(self, lease_id: str, container: str) -> None: ...  # noqa: D102
    def drain(self, lease_id: str, now: datetime) -> None: ...  # noqa: D102
    def note_absent(self, lease_id: str, now: datetime | None) -> None: ...  # noqa: D102
    def release(self, lease_id: str, now: datetime, reason: str) -> None: ...  # noqa: D102


class EngineLike(Protocol):
    """What settlement needs of an engine. `presence` answers *unknown* instead of raising."""

    def presence(self, lease_id: str) -> Presence: ...  # noqa: D102
    def remove(self, lease_id: str, stop_seconds: int) -> None: ...  # noqa: D102


def decide(lease: Lease, presence: Presence, now: datetime, patience: Patience) -> Action:
    """The rule of settlement.

    Args:
        lease: an active lease.
        presence: what the engine says about its container.
        now: the present moment.
        patience: how long to wait.

    Returns:
        The one action that is right now; the next round continues from there.
    """
    if lease.state in (LeaseState.RELEASED, LeaseState.CLAIMED):
        # A claim has no container; the line gives it to a start, or takes it back when its time is over.
        return Action.KEEP
    if presence is Presence.UNKNOWN:
        return Action.FORGET_ABSENT if lease.absent_since is not None else Action.KEEP
    if lease.state is LeaseState.DRAINING:
        return _decide_draining(lease, presence, now, patience)
    if lease.state is LeaseState.BOUND:
        return Action.KEEP if presence is Presence.RUNNING else Action.DRAIN
    # Starting: the hub may be about to bind it. Only a start that outlived its own time limit is given up.
    return Action.DRAIN if abs(now - (lease.starting or lease.created)) > patience.start else Action.KEEP


def _decide_draining(lease: Lease, presence: Presence, now: datetime, patience: Patience) -> Action:
    if presence is Presence.RUNNING:
        # Whoever asked it to end is stopping it, with time to save; that is cut short for nobody. A lab that was never handed
        # over has nothing to save: its start was given up, or lost with its hub.
        overdue = lease.bound is None or lease.drained is None or abs(now - lease.drained) > patience.stop
        return Action.REMOVE if overdue else Action.KEEP
    if presence is not Presence.ABSENT:
        return Action.REMOVE
    if not lease.in_flight:
        return Action.RELEASE
    if lease.absent_since is None or lease.absent_since - now > patience.flight:
        # Noted anew where the clock was set back: how long the creation has travelled is not known any more.
        return Action.NOTE_ABSENT
    return Action.RELEASE if now - lease.absent_since > patience.flight else Action.KEEP


def settle(lease: Lease, ledger: LedgerLike, engine: EngineLike, clock: Callable[[], datetime], patience: Patience) -> Action:
    """Settle one lease as far as it goes now.

    Returns:
        The last action taken: `RELEASE` when the GPUs are free again.
    """
    # At most drain → remove → release: each step is decided afresh on what the engine says after it.
    action = Action.KEEP
    for _ in range(4):
        presence = engine.presence(lease.id)
        action = decide(lease, presence, clock(), patience)
        if action is Action.KEEP:
            break
        log.info("lease %s of %s: %s", lease.id, lease.holder, action.value)
        if action is Action.DRAIN:
            ledger.drain(lease.id, clock())
            if presence is Presence.STOPPED:
                # The stopped container still knows why it ended; the hub's next poll reads that before it goes.
                break
        elif action is Action.REMOVE:
            if lease.in_flight:
                # Noted before the removal, which may fail halfway: a lease has one creation, and this is where it went.
                ledger.answered(lease.id, lease.container)
            engine.remove(lease.id, OVERDUE_STOP_SECONDS)
        elif action in (Action.NOTE_ABSENT, Action.FORGET_ABSENT):
            ledger.note_absent(lease.id, clock() if action is Action.NOTE_ABSENT else None)
            break
        else:
            ledger.release(lease.id, clock(), "the container is gone")
            break
        fresh = ledger.lease(lease.id)
        if fresh is None or fresh.state is LeaseState.RELEASED:
            break
        lease = fresh
    return action


def settle_all(
    leases: Iterable[Lease],
    ledger: LedgerLike,
    engine: EngineLike,
    clock: Callable[[], datetime],
    patience: Patience,
) -> dict[str, Action]:
    """Settle many leases; one that fails is logged and does not stop the others.

    Returns:
        Last action per lease id; a failed one is missing.
    """
    done: dict[str, Action] = {}
    for lease in leases:
        try:
            done[lease.id] = settle(lease, ledger, engine, clock, patience)
        except Exception:
            log.exception("lease %s of %s could not be settled; it is kept", lease.id, lease.holder)
    return done

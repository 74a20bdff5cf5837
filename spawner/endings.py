"""Why a lab ended, and what was killed in one that runs: asked of the engine while its container is there, told to its holder.

Owns the order: read, put into words, drain the lease with these words, and only then may the container go. Never removes
anything; what cannot be learned, because a part does not answer, is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

from spawner import evidence, profiles
from spawner.errors import LabError
from spawner.model import Lease, LeaseState, Presence, Profile
from spawner.runtime import Lab

log = logging.getLogger(__name__)


def tell(lab: Lab, lease_id: str) -> str:
    """Why the lab of a lease is not running, in words; its holder reads them too unless they ended it themselves.

    To be called while the container is still there. The first reason stays, so it may be called by many and again.
    """
    try:
        remains = lab.engine.remains(lease_id)
    except LabError as error:
        log.warning("why the lab of lease %s ended is unknown: %s", lease_id, error)
        return evidence.ENDED
    if remains is None:
        return evidence.ENDED
    try:
        lease = lab.ledger.lease(lease_id)
        text = evidence.why(remains, *_profiles(lab, lease))
        # A lab that drains was asked to end; one that was never bound tells its reason at the start that failed.
        if lease is not None and lease.state is LeaseState.BOUND and not evidence.by_itself(remains):
            lab.ledger.drain(lease.id, lab.clock(), ending=text)
            log.info("the lab of %s has ended: %s", lease.holder, text)
    except LabError as error:
        log.warning("the end of lease %s is not noted: %s", lease_id, error)
        text = evidence.why(remains, None, None)
    return text


def tell_of_stopped(lab: Lab, leases: Iterable[Lease], seen: Mapping[str, Presence]) -> None:
    """Note why labs ended by themselves, before settlement drains and removes what is left of them.

    Args:
        lab: the lab's parts.
        leases: read from the ledger after `seen` was asked of the engine, so that a lab which is being ended drains in it.
        seen: presence by lease.
    """
    for lease in leases:
        if lease.state is LeaseState.BOUND and seen.get(lease.id) is Presence.STOPPED:
            tell(lab, lease.id)


def kills(lab: Lab, lease_id: str) -> tuple[tuple[datetime, str], ...]:
    """What was killed for memory in a lab that runs: moment and sentence, the latest first."""
    report = evidence.parse(lab.engine.last_words(lease_id))
    deaths = [death for death in report.deaths if death.what != "server"] if report else []
    if not deaths:
        return ()
    lease = lab.ledger.lease(lease_id)
    profile, larger = _profiles(lab, lease)
    memory = profile.memory if profile else 0
    return tuple((death.at, evidence.kill(death, memory, larger)) for death in reversed(deaths))


def _profiles(lab: Lab, lease: Lease | None) -> tuple[Profile | None, Profile | None]:
    profile = lab.config.profiles.get(lease.profile) if lease else None
    if profile is None:
        return None, None
    try:
        facts, units = lab.engine.facts(), lab.units()
    except LabError:
        return profile, None
    return profile, profiles.next_larger(profile, lab.config.profiles.values(), facts.capacity, units)

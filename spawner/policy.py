"""Says whether a holder may have what they ask, given what they hold already.

Owns the rules of lab.yaml that concern a person. Never looks at what is free (that is `placement`) and never
writes. It runs inside the ledger's transaction, so two requests of one person cannot pass a limit together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spawner.errors import DeniedError
from spawner.model import GpuRequest, Holder, Lease, LeaseState, Limits

Admit = Callable[[GpuRequest, Holder, Sequence[Lease]], None]


def admit(limits: Limits) -> Admit:
    """Make the admission rule for these limits.

    The rule raises `DeniedError` when the holder's other labs already reach `servers_per_user`. Draining leases do
    not count: their owner has let go of them.
    """

    def rule(request: GpuRequest, holder: Holder, active: Sequence[Lease]) -> None:
        others = {
            lease.holder
            for lease in active
            if lease.holder.user == holder.user and lease.holder != holder and lease.state is not LeaseState.DRAINING
        }
        if len(others) >= limits.servers_per_user:
            names = ", ".join(sorted(other.server or "default" for other in others))
            raise DeniedError(
                f"You have {len(others)} labs running ({names}); {limits.servers_per_user} are allowed at once.",
                "Stop one of them first.",
            )

    return rule


def may_write_datasets(user: str, groups: frozenset[str], users: frozenset[str], writers: frozenset[str]) -> bool:
    """Whether lab.yaml grants this person to write `/workspace/data`, by name or by group."""
    return user in users or bool(groups & writers)

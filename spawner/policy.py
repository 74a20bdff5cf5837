"""Says whether a holder may have what they ask, given what they have already, and for how long.

Owns the rules of lab.yaml that concern a person: `policy`, `limits.servers_per_user` and `line.tickets_per_user`. Never looks at
what is free (that is `placement`) and never writes. It runs inside the ledger's transaction, so two requests of one person
cannot pass a limit together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from spawner.errors import DeniedError, MaintenanceError
from spawner.grants import PRIORITIES, UNLIMITED, Allowance, PolicyRules
from spawner.model import GpuRequest, Holder, LabConfig, Lease, LeaseState
from spawner.records import Grant, Standing

Admit = Callable[[GpuRequest, Holder, Standing], Grant]


def admit(config: LabConfig, groups: Iterable[str]) -> Admit:
    """Make the admission rule for a person of these groups.

    The rule raises `DeniedError` with the rule that says no and what is possible, or `MaintenanceError`. Draining leases do not
    count: their owner has let go of them. A claim counts: it is the person's.
    """
    mine = tuple(sorted(set(groups)))

    def rule(request: GpuRequest, holder: Holder, standing: Standing) -> Grant:
        if standing.maintenance is not None:
            until = standing.maintenance.message or "The lab is being maintained."
            raise MaintenanceError(f"No lab starts now: {until}", "Try again when it is over.")
        person = of_person(config.policy, holder.user, mine)
        _may_use(config.policy, request.profile, holder.user, mine)
        through = of_profile(config.policy, request.profile)
        others = [lease for lease in standing.leases if lease.holder != holder and lease.state is not LeaseState.DRAINING]
        same = [lease for lease in others if lease.profile == request.profile]
        total = sum(standing.gpu_seconds.values())
        labs = config.limits.servers_per_user if person.labs_at_once is None else person.labs_at_once
        _labs(labs, others, "")
        _labs(through.labs_at_once, same, request.profile)
        request = _models(_models(request, person.models), through.models)
        for allowance, held, seconds, where in (
            (person, others, total, ""),
            (through, same, standing.gpu_seconds.get(request.profile, 0.0), f" through the profile {request.profile!r}"),
        ):
            _gpus(allowance, request, held, where)
            _hours(allowance, request, seconds, where)
        lives = [_life(person, request, total), _life(through, request, standing.gpu_seconds.get(request.profile, 0.0))]
        most = config.line.tickets_per_user
        full = f"You have {standing.tickets} tickets in line; {most} are allowed at once." if standing.tickets >= most else ""
        ends = [life for life in lives if life is not None]
        return Grant(request, _priority(person, through), min(ends) if ends else None, mine, full)

    return rule


def of_person(rules: PolicyRules, user: str, groups: Sequence[str]) -> Allowance:
    """What a person is granted: each key from their own entry, else the most generous of their groups', else everyone's."""
    own = rules.users.get(user, Allowance())
    theirs = [rules.groups[name] for name in groups if name in rules.groups]
    found = {}
    for key in (field.name for field in dataclasses.fields(Allowance)):
        said = [value for value in (getattr(allowance, key) for allowance in theirs) if value is not None]
        if (value := getattr(own, key)) is None:
            value = _most_generous(key, said) if said else getattr(rules.everyone, key)
        found[key] = value
    return Allowance(**found)


def most_labs(config: LabConfig) -> float:
    """Labs that whoever may have the most may have at once."""
    rules = config.policy
    said = [one.labs_at_once for one in (*rules.groups.values(), *rules.users.values()) if one.labs_at_once is not None]
    everyone = rules.everyone.labs_at_once
    return max([config.limits.servers_per_user if everyone is None else everyone, *said])


def of_profile(rules: PolicyRules, profile: str) -> Allowance:
    """What a profile allows each person."""
    rule = rules.profiles.get(profile)
    return rule.allowance if rule else Allowance()


def may_see_profile(rules: PolicyRules, profile: str, user: str, groups: Iterable[str]) -> bool:
    """Whether a person may use a profile at all."""
    rule = rules.profiles.get(profile)
    if rule is None or not (rule.users or rule.groups):
        return True
    return user in rule.users or bool(rule.groups & set(groups))


def may_write_datasets(user: str, groups: frozenset[str], users: frozenset[str], writers: frozenset[str]) -> bool:
    """Whether lab.yaml grants this person to write `/workspace/data`, by name or by group."""
    return user in users or bool(groups & writers)


def _most_generous(key: str, said: Sequence[Any]) -> Any:
    if key == "models":
        return () if () in said else tuple(dict.fromkeys(model for models in said for model in models))
    return max(said)


def _may_use(rules: PolicyRules, profile: str, user: str, groups: Sequence[str]) -> None:
    if not may_see_profile(rules, profile, user, groups):
        raise DeniedError(
            f"The profile {profile!r} is not for you: policy.profiles.{profile} names who may use it.",
            "Choose another profile, or ask your admin.",
        )


def _labs(most: float | None, others: Sequence[Lease], profile: str) -> None:
    holders = {lease.holder for lease in others}
    if most is not None and len(holders) >= most:
        names = ", ".join(sorted(other.server or "default" for other in holders))
        what = f"labs of the profile {profile!r}" if profile else "labs"
        running = f"You have {len(holders)} {what} running ({names})" if holders else f"You asked for one of your {what}"
        raise DeniedError(
            f"{running}; {most:g} are allowed at once.", "Stop one of them first." if holders else "Ask your admin."
        )


def _models(request: GpuRequest, allowed: tuple[str, ...] | None) -> GpuRequest:
    if not allowed or not request.gpus:
        return request
    models = tuple(model for model in request.gpu_models if model in allowed) if request.gpu_models else allowed
    if not models:
        raise DeniedError(
            f"The profile {request.profile!r} is for {' or '.join(request.gpu_models)}; you may use {' or '.join(allowed)}.",
            "Choose a profile with one of these, or ask your admin.",
        )
    return dataclasses.replace(request, gpu_models=models)


def _gpus(allowance: Allowance, request: GpuRequest, others: Sequence[Lease], where: str) -> None:
    if not request.gpus:
        return
    if allowance.gpus_per_lab is not None and request.gpus > allowance.gpus_per_lab:
        raise DeniedError(
            f"You asked for {request.gpus} GPUs in one lab; you may have {allowance.gpus_per_lab:g}{where}.",
            "Ask for fewer." if allowance.gpus_per_lab else "Choose a profile without a GPU, or ask your admin.",
        )
    held = sum(len(lease.gpus) for lease in others)
    if allowance.gpus_at_once is not None and held + request.gpus > allowance.gpus_at_once:
        left = max(0, int(allowance.gpus_at_once - held))
        raise DeniedError(
            f"You hold {held} GPUs and asked for {request.gpus} more; you may have {allowance.gpus_at_once:g} at once{where}.",
            f"Ask for at most {left}, or stop a lab first." if left else "Stop a lab first." if held else "Ask your admin.",
        )


def _hours(allowance: Allowance, request: GpuRequest, seconds: float, where: str) -> None:
    hours = allowance.hours_per_week
    if request.gpus and hours is not None and seconds >= hours * 3600:
        raise DeniedError(
            f"You have used {seconds / 3600:.1f} of the {hours:g} GPU-hours that you may have in seven days{where}.",
            "Choose a profile without a GPU, or try again when some of them are more than seven days ago.",
        )


def _life(allowance: Allowance, request: GpuRequest, seconds: float) -> timedelta | None:
    if not request.gpus:
        return None
    limits = [allowance.life] if allowance.life is not None else []
    if allowance.hours_per_week is not None:
        limits.append((allowance.hours_per_week * 3600 - seconds) / request.gpus)
    shortest = min(limits, default=UNLIMITED)
    return None if shortest == UNLIMITED else timedelta(seconds=shortest)


def limits_hours(rules: PolicyRules, lease: Lease) -> bool:
    """Whether GPU-hours of a lab's owner are limited, themselves or through its profile."""
    both = of_person(rules, lease.holder.user, lease.groups), of_profile(rules, lease.profile)
    return any(one.hours_per_week not in (None, UNLIMITED) for one in both)


def hours_end(rules: PolicyRules, lease: Lease, standing: Standing, now: datetime) -> datetime | None:
    """When a running lab's owner will have used up their GPU-hours of the week, all their labs together; None for no limit.

    Args:
        rules: lab.yaml's `policy`.
        lease: of a lab that holds GPUs.
        standing: what its owner has.
        now: the present moment.
    """
    ends = []
    same = [held for held in standing.leases if held.profile == lease.profile]
    for allowance, leases, seconds in (
        (of_person(rules, lease.holder.user, lease.groups), standing.leases, sum(standing.gpu_seconds.values())),
        (of_profile(rules, lease.profile), same, standing.gpu_seconds.get(lease.profile, 0.0)),
    ):
        hours, gpus = allowance.hours_per_week, sum(len(held.gpus) for held in leases)
        if gpus and hours is not None and hours != UNLIMITED:
            ends.append(now + timedelta(seconds=max(0.0, hours * 3600 - seconds) / gpus))
    return min(ends, default=None)


def _priority(person: Allowance, through: Allowance) -> int:
    said = [rank for rank in (person.priority, through.priority) if rank is not None]
    return min(said) if said else PRIORITIES["normal"]

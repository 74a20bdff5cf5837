"""The frozen values of lab.yaml's rules: who may have how much, how the line moves, what is reclaimed, what is shared.

Owns their fields. Never reads lab.yaml (`schema_rules` says what is allowed, `labfile` reads) and applies none of them (`policy`,
`line`, `reclaim` and `sharing` do).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

PRIORITIES = {"low": 0, "normal": 1, "high": 2}
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a person, a group or a profile is granted; None means that nothing is said here.

    Attributes:
        gpus_at_once: over all of a person's labs.
        gpus_per_lab: in one lab.
        models: GPU models; an empty tuple means any.
        labs_at_once: running labs.
        life: longest life of a lab with GPUs, in seconds.
        hours_per_week: GPU-hours in any seven days.
        priority: class in the line, from `PRIORITIES`.

    Numbers may be `UNLIMITED`.
    """

    gpus_at_once: float | None = None
    gpus_per_lab: float | None = None
    models: tuple[str, ...] | None = None
    labs_at_once: float | None = None
    life: float | None = None
    hours_per_week: float | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class ProfileRule:
    """Who may use a profile (nobody named: everyone), and what it allows each person."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """lab.yaml's `policy`."""

    everyone: Allowance = field(default_factory=Allowance)
    groups: Mapping[str, Allowance] = field(default_factory=dict)
    users: Mapping[str, Allowance] = field(default_factory=dict)
    profiles: Mapping[str, ProfileRule] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LineRules:
    """lab.yaml's `line`.

    Attributes:
        claim: how long GPUs are held for a ticket whose turn came.
        half_life: after this time a GPU-hour counts half in the fair share.
        overdue: a ticket older than this goes before all others, by age.
        tickets_per_user: tickets that one person may have at once.
        show_holders: whoever cannot be served is told who holds the GPUs.
    """

    claim: timedelta = timedelta(minutes=5)
    half_life: timedelta = timedelta(days=7)
    overdue: timedelta = timedelta(days=1)
    tickets_per_user: int = 3
    show_holders: bool = True


@dataclass(frozen=True, slots=True)
class ReclaimRules:
    """lab.yaml's `reclaim`.

    Attributes:
        mode: `off`, `dry-run` (decide and log, stop nothing) or `on`.
        notice, warning: idle time after which a notice is shown, and after which a stop is announced.
        grace: time between the warning and the stop.
        extend: what one press of *Extend* gives.
        extensions: how often it may be pressed for one lab.
        gpu_percent: utilisation up to which a GPU counts as unused.
        cpu_percent: CPU use of a lab, in percent of one core, up to which it counts as doing nothing.
        life_warning: how long before the end of its life a lab is warned.
    """

    mode: str = "on"
    notice: timedelta = timedelta(hours=1)
    warning: timedelta = timedelta(hours=2)
    grace: timedelta = timedelta(minutes=30)
    extend: timedelta = timedelta(hours=4)
    extensions: int = 3
    gpu_percent: int = 5
    cpu_percent: int = 10
    life_warning: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SharingRule:
    """Some GPUs are shared in seats.

    Attributes:
        gpus: UUIDs, or models, of the GPUs; both may be named.
        seats: seats on each of them.
        grace: how long a seat may exceed its share of the memory after the warning.
    """

    gpus: frozenset[str]
    models: frozenset[str]
    seats: int
    grace: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class BoardRules:
    """lab.yaml's `board`: whether everyone sees who holds a GPU, or admins only."""

    names_for_everyone: bool = False

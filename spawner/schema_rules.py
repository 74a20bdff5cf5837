"""The shape of lab.yaml's rules: `policy`, `line`, `reclaim`, `board` and `gpus.sharing`, and how they become frozen values.

Owns keys, types, bounds and defaults of these sections. Never reads a file, and never speaks to a person.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from spawner.grants import (
    PRIORITIES,
    UNLIMITED,
    Allowance,
    BoardRules,
    LineRules,
    PolicyRules,
    ProfileRule,
    ReclaimRules,
    SharingRule,
)

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> int:
    """Read a time such as `90s`, `30m`, `4h` or `7d` into seconds.

    Raises:
        ValueError: the value is not a whole number with a unit.
    """
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        return int(found[1]) * _UNIT[found[2]]
    raise ValueError(f"a time is a whole number with a unit, such as 30m, 4h or 7d, not {value!r}")


def _limit(value: Any) -> float:
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
        return float(value)
    raise ValueError(f"a limit is a number from 0, or unlimited, not {value!r}")


def _life(value: Any) -> float:
    return UNLIMITED if value == "unlimited" else float(parse_duration(value))


Limit = Annotated[float, BeforeValidator(_limit)]
Life = Annotated[float, BeforeValidator(_life), Field(ge=60)]
Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, le=366 * 86400)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Names = Annotated[list[Name], Field(max_length=1000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AllowanceSection(_Section):
    """What is granted; what is left out is not said here."""

    gpus_at_once: Limit | None = None
    gpus_per_lab: Limit | None = None
    models: Names | None = None
    labs_at_once: Limit | None = None
    life: Life | None = None
    hours_per_week: Limit | None = None
    priority: Literal["low", "normal", "high"] | None = None

    def frozen(self) -> Allowance:
        """As a frozen value."""
        return Allowance(
            gpus_at_once=self.gpus_at_once,
            gpus_per_lab=self.gpus_per_lab,
            models=None if self.models is None else tuple(self.models),
            labs_at_once=self.labs_at_once,
            life=self.life,
            hours_per_week=self.hours_per_week,
            priority=None if self.priority is None else PRIORITIES[self.priority],
        )


class ProfileRuleSection(AllowanceSection):
    """A profile's rule: who may use it, and what it allows each person."""

    users: Names = []
    groups: Names = []


class PolicySection(_Section):
    """Who may have how much."""

    everyone: AllowanceSection = AllowanceSection()
    groups: Annotated[dict[Name, AllowanceSection], Field(max_length=1000)] = {}
    users: Annotated[dict[Name, AllowanceSection], Field(max_length=10_000)] = {}
    profiles: Annotated[dict[Name, ProfileRuleSection], Field(max_length=100)] = {}

    def frozen(self) -> PolicyRules:
        """As a frozen value."""
        return PolicyRules(
            everyone=self.everyone.frozen(),
            groups={name: section.frozen() for name, section in self.groups.items()},
            users={name: section.frozen() for name, section in self.users.items()},
            profiles={
                key: ProfileRule(frozenset(rule.users), frozenset(rule.groups), rule.frozen())
                for key, rule in self.profiles.items()
            },
        )


class LineSection(_Section):
    """How the waiting line moves."""

    claim: Duration = 300
    half_life: Duration = 7 * 86400
    overdue: Duration = 86400
    tickets_per_user: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    show_holders: StrictBool = True

    def frozen(self) -> LineRules:
        """As a frozen value."""
        return LineRules(
            _delta(self.claim), _delta(self.half_life), _delta(self.overdue), self.tickets_per_user, self.show_holders
        )


class ReclaimSection(_Section):
    """When a lab that uses no GPU is ended."""

    # `on` and `off` are true and false in YAML 1.1; both spellings mean the same here.
    mode: Annotated[Literal["off", "dry-run", "on"], BeforeValidator(lambda v: {True: "on", False: "off"}.get(v, v))] = "on"
    notice: Duration = 3600
    warning: Duration = 2 * 3600
    grace: Duration = 1800
    extend: Duration = 4 * 3600
    extensions: Annotated[StrictInt, Field(ge=0, le=1000)] = 3
    gpu_percent: Annotated[StrictInt, Field(ge=0, le=100)] = 5
    cpu_percent: Annotated[StrictInt, Field(ge=0, le=100)] = 10
    life_warning: Duration = 3600

    def frozen(self) -> ReclaimRules:
        """As a frozen value."""
        return ReclaimRules(
            mode=self.mode,
            notice=_delta(self.notice),
            warning=_delta(self.warning),
            grace=_delta(self.grace),
            extend=_delta(self.extend),
            extensions=self.extensions,
            gpu_percent=self.gpu_percent,
            cpu_percent=self.cpu_percent,
            life_warning=_delta(self.life_warning),
        )


class BoardSection(_Section):
    """What the board shows to whom."""

    names_for_everyone: StrictBool = False

    def frozen(self) -> BoardRules:
        """As a frozen value."""
        return BoardRules(self.names_for_everyone)


class SharingSection(_Section):
    """GPUs that are shared in seats; their memory is not isolated."""

    gpus: Names = []
    models: Names = []
    seats: Annotated[StrictInt, Field(ge=2, le=32)]
    grace: Duration = 300

    def frozen(self) -> SharingRule:
        """As a frozen value."""
        return SharingRule(frozenset(self.gpus), frozenset(self.models), self.seats, _delta(self.grace))


def _delta(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)

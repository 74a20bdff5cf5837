"""Frozen values of what a person is told about their labs: troubles of those that run, and why others ended.

Owns their fields. Never decides what is told (`reclaim`, `seats` and `endings` do) and draws no page.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from spawner.model import Holder
from spawner.records import Watch


class TroubleKind(str, enum.Enum):
    """What is wrong with a lab that runs: its container lost its GPUs, or its seat uses more memory than its share."""

    LOST = "lost"
    SEAT = "seat"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a lab that runs, as its holder is told.

    Attributes:
        lease: id.
        since: when it was found.
        text: what the person reads.
        stop_at: when the lab is stopped for it; None where it is not.
        seen: when it was last looked at; time in which nobody looked does not count.
    """

    lease: str
    kind: TroubleKind
    since: datetime
    text: str
    stop_at: datetime | None = None
    seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a lab ended, for its holder, until they have read it."""

    lease: str
    holder: Holder
    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a person is to be told about their labs.

    Attributes:
        labs: lease id → holder, of the person's labs that run.
        ends: lease id → end of that lab's life; None where it has none.
        watches, troubles: of these.
        endings: the newest first, at most five.
    """

    labs: Mapping[str, Holder]
    ends: Mapping[str, datetime | None]
    watches: tuple[Watch, ...]
    troubles: tuple[Trouble, ...]
    endings: tuple[Ending, ...]

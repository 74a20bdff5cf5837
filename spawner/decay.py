"""How use in the past counts less the longer ago it was.

Owns the two formulas of the fair share. Pure arithmetic on moments; never reads a clock or a ledger.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta


def decayed(amount: float, at: datetime, now: datetime, half_life: timedelta) -> float:
    """What an amount of a past moment still counts now: half of it after each half-life.

    A clock that was set back does not let it grow.
    """
    return float(amount * 0.5 ** (max(0.0, (now - at).total_seconds()) / half_life.total_seconds()))


def used(gpus: int, began: datetime, ended: datetime, now: datetime, half_life: timedelta) -> float:
    """GPU-seconds of a steady use, each second decayed from its own moment to now.

    The integral of `gpus` · ½^((now − t)/half_life) for t from `began` to `ended`.
    """
    rate = math.log(2) / half_life.total_seconds()
    length = max(0.0, (ended - began).total_seconds())
    return decayed(-gpus * math.expm1(-rate * length) / rate, ended, now, half_life)

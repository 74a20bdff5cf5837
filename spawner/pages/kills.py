"""What was killed for memory in a lab that runs, for the home page.

Owns the time limit of that question: a page is drawn without the answer rather than late. Never asks on the hub's own thread.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from spawner import endings
from spawner.errors import LabError

SECONDS = 1.5


async def of(spawner: Any) -> tuple[tuple[datetime, str], ...]:
    """Moment and sentence of what was killed, the latest first; empty where the engine does not answer in time.

    Args:
        spawner: a running `GpuSpawner`.
    """
    try:
        asked = spawner._in_lane(endings.kills, spawner.lab, spawner.lease_id)
        found: tuple[tuple[datetime, str], ...] = await asyncio.wait_for(asked, SECONDS)
    except (asyncio.TimeoutError, LabError):
        return ()
    return found

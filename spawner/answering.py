"""Waits for a lab's server to answer, and looks meanwhile whether the lab still lives.

Owns the waiting and its two endings: an answer, or the reason why there will be none. Never starts or stops anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from jupyterhub.utils import wait_for_http_server

from spawner.errors import LabEnded

log = logging.getLogger("gpulab")
SURVIVOR_SECONDS = 5.0
"""Time between two tries of a lab that outlived a restart of the hub and does not answer."""
LOOK_SECONDS = 1.0
"""Time between two looks whether a starting lab still lives, and longest wait for one connection."""
AGAIN = "Try again; if it stays so, tell your admin."


async def wait(url: str, api: str, seconds: float, poll: Callable[[], Awaitable[str | int | None]]) -> None:
    """Wait until a starting lab answers.

    JupyterHub waits for an answer too, but does not look whether the lab still lives: one that ended at once, out of memory for
    example, would be waited for to the end of the time limit, and its reason lost.

    Args:
        url: address of the lab's server.
        api: an address there that answers once the server works.
        seconds: longest wait.
        poll: None while the lab lives, else why it does not.

    Raises:
        LabEnded: the lab ended, or did not answer in time.
    """
    waiting = asyncio.ensure_future(_answer(url, api, seconds))
    try:
        while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
            if (ended := await poll()) is not None:
                reason = ended if isinstance(ended, str) else "The lab's container is gone."
                raise LabEnded(reason, "Choose a profile with more memory, or tell your admin.")
        if not waiting.result():
            raise LabEnded(f"JupyterLab did not answer within {seconds:g} s.", AGAIN)
    finally:
        waiting.cancel()


async def survivor(url: str, poll: Callable[[], Awaitable[str | int | None]], name: str) -> None:
    """Wait until a lab that outlived a restart of the hub answers, or is gone.

    Args:
        url: address of the lab's server.
        poll: None while the lab lives or cannot be seen.
        name: of the lab, for the log.
    """
    while not await listens(url) and await poll() is None:
        log.warning("%s runs but does not answer at %s; waiting for it", name, url)
        await asyncio.sleep(SURVIVOR_SECONDS)


async def listens(url: str) -> bool:
    """Whether something takes connections at the host and port of this address."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port or 80), LOOK_SECONDS)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


async def _answer(url: str, api: str, seconds: float) -> bool:
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    # First the port, asked often: the hub's own wait for an answer doubles its pauses and would overlook the moment.
    while not await listens(url):
        if clock() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS / 10)
    try:
        await wait_for_http_server(api, timeout=max(1.0, deadline - clock()))
    except (TimeoutError, asyncio.TimeoutError):
        return False
    return True

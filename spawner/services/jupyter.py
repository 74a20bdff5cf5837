"""Asks the Jupyter servers of labs what their kernels and terminals do.

Owns these questions. Never believes an answer further than its form: what a lab says is a stranger's, so it is bounded in time
and size, read once, and unknown where it is odd. A lab is asked with its own server's token, which it has anyway: no right of
the hub or of another lab ever travels into a container.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from spawner.model import Holder
from spawner.vitals import Inside

PORT = 8888
CALL_SECONDS = 5.0
MOST_BYTES = 1 << 20
MOST_ENTRIES = 10_000
AT_ONCE = 8
log = logging.getLogger("gpulab.reclaim")


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a lab's Jupyter server says: how many kernels run something, and when a kernel or terminal was used last."""

    busy: int
    used: datetime | None


def ask(labs: Mapping[str, tuple[Holder, Inside]]) -> dict[str, Kernels]:
    """Ask many labs at once; a lab that gives no sensible answer in time is missing in the result.

    Args:
        labs: key of the caller → whose lab it is, and how to reach it.
    """
    return asyncio.run(_ask(labs)) if labs else {}


async def _ask(labs: Mapping[str, tuple[Holder, Inside]]) -> dict[str, Kernels]:
    client = SimpleAsyncHTTPClient(force_instance=True, max_clients=AT_ONCE, max_body_size=MOST_BYTES, max_header_size=1 << 16)
    places = asyncio.Semaphore(AT_ONCE // 2)

    async def one(key: str, holder: Holder, inside: Inside) -> tuple[str, Kernels | None]:
        async with places:
            try:
                return key, await _kernels(client, holder, inside)
            # Whatever a stranger's answer breaks, it breaks for that lab alone.
            except Exception as error:
                log.debug("%s does not tell what its kernels do: %s", holder, type(error).__name__)
                return key, None

    try:
        answers = await asyncio.gather(*(one(key, holder, inside) for key, (holder, inside) in labs.items()))
    finally:
        client.close()
    return {key: answer for key, answer in answers if answer is not None}


async def _kernels(client: SimpleAsyncHTTPClient, holder: Holder, inside: Inside) -> Kernels:
    if not inside.address or not inside.token:
        raise ValueError("no way in")
    place = "/".join(quote(part, safe="@~") for part in ("user", holder.user, holder.server) if part)
    url = f"http://{inside.address}:{PORT}/{place}/api/"
    # Open tabs ask the server for its status every few seconds; only kernels and terminals tell of a person.
    kernels = await _get(client, url + "kernels", inside.token)
    terminals = await _get(client, url + "terminals", inside.token, missing=[])
    return read(kernels, terminals)


async def _get(client: SimpleAsyncHTTPClient, url: str, token: str, missing: object = None) -> object:
    try:
        answer = await client.fetch(
            url,
            headers={"Authorization": f"token {token}"},
            connect_timeout=CALL_SECONDS,
            request_timeout=CALL_SECONDS,
            follow_redirects=False,
            decompress_response=False,
        )
    except HTTPClientError as error:
        if error.code == 404 and missing is not None:
            return missing
        raise
    found: object = json.loads(answer.body)
    return found


def read(kernels: object, terminals: object) -> Kernels:
    """Read a Jupyter server's lists of kernels and terminals.

    Raises:
        ValueError: they do not have the form that Jupyter's REST API gives them.
    """
    if not isinstance(kernels, list) or not isinstance(terminals, list) or len(kernels) + len(terminals) > MOST_ENTRIES:
        raise ValueError("no list")
    busy = sum(_word(kernel, "execution_state") not in ("idle", "dead") for kernel in kernels)
    used = [_moment(_word(entry, "last_activity")) for entry in (*kernels, *terminals)]
    return Kernels(busy, max(used, default=None))


def _word(entry: Any, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise ValueError(f"no {key}")
    return str(entry[key])


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text[:40].replace("Z", "+00:00"))
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

"""When this lab ends: the one question that goes to the hub.

Owns asking with the lab's own token, which may read what is told of this lab and nothing else. Never changes anything, and never
raises: a lab whose hub is away goes on.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timezone

TIMEOUT_SECONDS = 5
MOST_BYTES = 1 << 20
NO_HUB = "when you stop it: this is not a lab that a hub started"
SILENT = "unknown: the hub does not answer just now"
NO_END = "when you stop it, or after a warning when it holds a GPU and uses none"


def end(env: Mapping[str, str] | None = None, now: datetime | None = None) -> str:
    """When the hub ends this lab, for a person to read.

    Args:
        env: environment; the process's own where not given.
        now: the present moment; the clock's where not given.
    """
    env = os.environ if env is None else env
    api, token, lease = (env.get(name, "") for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "GPULAB_LEASE"))
    if not (api.startswith(("http://", "https://")) and token and lease):
        return NO_HUB
    # S310: the address begins with http, as was checked above.
    request = urllib.request.Request(f"{api.rstrip('/')}/gpus/notices", headers={"Authorization": f"token {token}"})  # noqa: S310
    try:
        # The hub is a neighbour on the lab's own network: no proxy of the plant is to see the token.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            labs = json.loads(answer.read(MOST_BYTES))["labs"]
        ends = {lab["lease"]: lab["ends"] for lab in labs}
        return told(datetime.fromisoformat(ends[lease]) if ends.get(lease) else None, now or datetime.now(timezone.utc))
    except (OSError, ValueError, KeyError, TypeError):
        return SILENT


def told(ends: datetime | None, now: datetime) -> str:
    """An end in words: the moment in UTC, and how long that is from now."""
    if ends is None:
        return NO_END
    minutes = max(0, int((ends - now).total_seconds()) // 60)
    hours, rest = divmod(minutes, 60)
    left = f"{hours} h {rest} min" if hours else f"{rest} min"
    return f"{ends:%Y-%m-%d %H:%M} UTC, in {left}"

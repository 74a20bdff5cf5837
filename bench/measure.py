"""One round: some users at once, started and stopped, with the clocks and CPU meters around them.

Owns what lies inside and outside the clock. Never knows what the subject is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from bench import cpu
from bench.samples import Cpu, Sample
from bench.subject import BenchError, Subject

# What the round before left behind (unmounts, log lines) is over by then.
PAUSE_SECONDS = 1.0
SERVING = "is running at:"
"""What Jupyter Server logs once it listens; the hub asks later, and at random moments."""


def at_once(action: Callable[[str], None], users: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Do something for all users at the same moment.

    Returns:
        User → begin and end on the clock of `time.time`.

    Raises:
        Exception: what the first user's action that failed raised, after all have ended.
    """
    gate = threading.Barrier(len(users))
    # Differences must not jump when somebody sets the clock, yet the engine's log knows only that one.
    offset = time.time() - time.monotonic()

    def timed(user: str) -> tuple[float, float]:
        gate.wait()
        began = time.monotonic()
        action(user)
        return began + offset, time.monotonic() + offset

    with ThreadPoolExecutor(len(users)) as pool:
        return dict(zip(users, pool.map(timed, users), strict=True))


def serving_at(log: str) -> float | None:
    """When a server said that it runs, from its log with the engine's timestamps; the last time, if it did twice."""
    stamps = [line.split(" ", 1)[0] for line in log.splitlines() if SERVING in line]
    # The engine writes nanoseconds, of which Python 3.10 reads six digits at most.
    return datetime.fromisoformat(f"{stamps[-1][:26]}+00:00").timestamp() if stamps else None


def serving_seconds(client: Any, ids: Mapping[str, str], began: Mapping[str, float]) -> tuple[float, ...]:
    """Seconds from each user's begin to her server's own word that it runs.

    Raises:
        BenchError: a server has not said so.
    """
    found = []
    for user, container_id in ids.items():
        moment = serving_at(client.api.logs(container_id, timestamps=True).decode("utf-8", "replace"))
        if moment is None:
            raise BenchError(f"The server of {user} is ready, but its log does not say '{SERVING}'.")
        found.append(moment - began[user])
    return tuple(found)


def container_seconds(client: Any, ids: Collection[str]) -> float:
    """CPU seconds so far of running containers, as the engine counts them."""
    stats = [client.api.stats(container_id, stream=False, one_shot=True) for container_id in ids]
    return float(sum(found["cpu_stats"]["cpu_usage"]["total_usage"] for found in stats)) / 1e9


def rounds(client: Any, subject: Subject, users: Sequence[str], number: int) -> Iterator[Sample]:
    """One sample per occasion of the subject, the same users each time; nothing of them is left afterwards."""
    subject.admit(users)
    try:
        for occasion in subject.occasions:
            time.sleep(PAUSE_SECONDS)
            yield one(client, subject, users, occasion, number)
    finally:
        subject.forget(users)


def one(client: Any, subject: Subject, users: Sequence[str], occasion: str, number: int) -> Sample:
    """Start all, read the meters, stop all."""
    load = os.getloadavg()[0]
    roots = subject.roots()
    hub, engine, machine = cpu.tree_seconds(roots), cpu.engine_seconds(()), cpu.machine_seconds()
    started = at_once(subject.start, users)
    machine_after, hub_after = cpu.machine_seconds(), cpu.tree_seconds(roots)
    ids = subject.containers(users)
    if set(ids) != set(users):
        raise BenchError(f"{subject.name} calls {len(users)} servers ready, but {len(ids)} run.")
    # Before the containers: asking for theirs is work of the engine.
    engine_spent = cpu.spent(engine, cpu.engine_seconds(ids.values()))
    spent = Cpu(container_seconds(client, ids.values()), hub_after - hub, engine_spent, machine_after - machine)
    serving = serving_seconds(client, ids, {user: began for user, (began, _) in started.items()})
    ready = tuple(ended - began for began, ended in started.values())
    stopped = at_once(subject.stop, users).values()
    stop = max(ended for _, ended in stopped) - min(began for began, _ in stopped)
    return Sample(subject.name, len(users), occasion, number, serving, ready, stop, spent, load)

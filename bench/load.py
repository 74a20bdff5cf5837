"""What looking after many running labs costs, and how soon the board shows a change: `python -m bench.load`.

Owns the making of the labs (real containers that only wait, with leases in the ledger) and the reading of the meters. Measured
are the hub and each of its services, with one open board and without.
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests

from bench import cpu, outcome, tiny
from bench.samples import percentile
from bench.subject import BenchError
from spawner.config import SERVICE_SCOPES
from spawner.container import LABEL_GPUS, LABEL_LAB, LABEL_LEASE, LABEL_PROFILE, LABEL_SERVER, LABEL_USER
from spawner.ledger import Ledger
from spawner.model import Gpu, GpuRequest, Holder, Lease
from spawner.records import GpuMark, Grant, MarkKind
from spawner.sharing import units
from spawner.vitals import TOKEN
from tests.support.hub import HubProcess

TARGET_PERCENT = 3.0
TARGET_MS = 300.0
# lab.yaml takes this many simulated GPUs at most; the other labs have none.
GPUS = 64
EVENTS = "/hub/api/gpus/events"


@dataclass(frozen=True)
class Reading:
    """CPU seconds so far of the hub's own process and of each service, by name, at a moment of the monotonic clock."""

    at: float
    seconds: dict[str, float]


def read(hub: HubProcess) -> Reading:
    """Read the meters of the hub and of its services."""
    assert hub.process is not None
    among = cpu.processes()
    found = {"hub": among[hub.process.pid].seconds}
    for pid in cpu.tree([hub.process.pid], among):
        words = _words(pid)
        name = next((word.rsplit(".", 1)[1] for word in words if word.startswith("spawner.services.")), "")
        if name:
            # A service's helpers count as its own.
            found[name] = found.get(name, 0.0) + cpu.tree_seconds([pid])
    # The hub counts children that it waited for; services live as long as it.
    return Reading(time.monotonic(), found)


def percent(before: Reading, after: Reading) -> dict[str, float]:
    """Percent of one core between two readings, by process."""
    seconds = after.at - before.at
    return {name: 100 * (after.seconds[name] - before.seconds.get(name, 0.0)) / seconds for name in after.seconds}


def cost(idle: dict[str, float], loaded: dict[str, float]) -> float:
    """Percent of one core that the labs cost: all of every service, and what the hub takes beyond a hub without labs."""
    return sum(loaded.values()) - idle.get("hub", 0.0)


def fill(hub: HubProcess, tag: str, labs: int) -> None:
    """Make labs: for each a lease that is bound and a running container, which answers as an idle lab where it has a GPU."""
    ledger = Ledger.open(hub.config.ledger_url)
    gpus = units(tuple(_gpus(hub)), ())
    try:
        found = tiny.each(lambda number: _one(hub, ledger, tag, int(number), gpus), [str(n) for n in range(labs)], 4)
    finally:
        ledger.close()
    failed = [error for error in found.values() if isinstance(error, Exception)]
    if failed:
        raise BenchError(f"{len(failed)} of {labs} labs were not made: {failed[0]}")


def _gpus(hub: HubProcess) -> Iterator[Gpu]:
    for index, gpu in enumerate(hub.config.gpus.simulated):
        yield Gpu(gpu.uuid, "node", index, gpu.model, gpu.memory >> 20, True)


def _one(hub: HubProcess, ledger: Ledger, tag: str, number: int, gpus: Sequence[Gpu]) -> None:
    chosen = (gpus[number].uuid,) if number < len(gpus) else ()
    profile = "gpu-1" if chosen else "cpu"
    holder, now = Holder(f"person{number:03d}"), datetime.now(timezone.utc)
    lease = ledger.acquire(
        GpuRequest(profile, len(chosen), wait=False), holder, gpus, lease_id=secrets.token_hex(16), now=now,
        admit=lambda request, *_: Grant(request), choose=lambda *_: chosen,
    )  # fmt: skip
    assert isinstance(lease, Lease)
    client = hub.engine.client
    labels = {
        LABEL_LAB: hub.files.name, LABEL_LEASE: lease.id, LABEL_USER: holder.user, LABEL_SERVER: "", LABEL_PROFILE: profile,
        LABEL_GPUS: ",".join(chosen),
    }  # fmt: skip
    name = f"{hub.files.name}-{holder.user}"
    # Of a lab with a GPU reclaim asks what its kernels do; the others only have to be there.
    command = None if chosen else ["sleep", "infinity"]
    limits = client.create_host_config(network_mode=hub.config.network.name if chosen else "none", mem_limit=tiny.MEMORY)
    made = client.create_container(
        tag, command, name=name, labels=labels, host_config=limits, stop_signal="SIGKILL",
        environment={TOKEN: secrets.token_hex(16)},
    )  # fmt: skip
    ledger.answered(lease.id, made["Id"])
    client.start(made["Id"])
    ledger.bind(lease.id, datetime.now(timezone.utc))


class Board:
    """An open board: reads the hub's events as a browser does, and notes when each came."""

    def __init__(self, hub: HubProcess, token: str) -> None:
        self.seen: list[tuple[float, str]] = []
        self.changed = threading.Condition()
        self._answer = requests.get(
            f"{hub.url}{EVENTS}", headers={"Authorization": f"token {token}"}, stream=True, timeout=(10, 60)
        )
        self.status = self._answer.status_code
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self.status == 200:
            self._thread.start()

    def _read(self) -> None:
        kind = ""
        try:
            for line in self._answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("event:"):
                    kind = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    with self.changed:
                        self.seen.append((time.monotonic(), f"{kind} {line}"))
                        self.changed.notify_all()
        except (requests.RequestException, AttributeError, ValueError):
            # The board was closed.
            return

    def wait(self, condition: Callable[[str], bool], since: int, seconds: float) -> float | None:
        """When an event that meets the condition came, of those after number `since`; None where none came in time."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                for at, text in self.seen[since:]:
                    if condition(text):
                        return at
                if not self.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return None

    def close(self) -> None:
        """Leave."""
        self._answer.close()


def latency(hub: HubProcess, board: Board, changes: int) -> list[float]:
    """Seconds from a commit in the ledger to its event at the board: a GPU is drained and returned again and again."""
    ledger = Ledger.open(hub.config.ledger_url)
    gpu = hub.config.gpus.simulated[-1].uuid
    found = []
    try:
        for number in range(changes):
            word = f"change {secrets.token_hex(4)}"
            since, now = len(board.seen), datetime.now(timezone.utc)
            ledger.mark(GpuMark(gpu, MarkKind.DRAINED, word, "bench", now, False))
            committed = time.monotonic()
            arrived = board.wait(lambda text, word=word: word in text, since, 10)  # type: ignore[misc]
            if arrived is None:
                raise BenchError(f"change {number} did not reach the board within 10 s")
            found.append(arrived - committed)
            ledger.unmark(gpu, "bench", datetime.now(timezone.utc))
            # Not in step with the feed's own pace.
            time.sleep(0.2 + secrets.randbelow(300) / 1000)
    finally:
        ledger.close()
    return found


def report(labs: int, seconds: int, idle: dict[str, float], loaded: dict[str, dict[str, float]], arrived: Sequence[float]) -> str:
    """The readable result."""
    lines = [
        f"{labs} labs ({min(labs, GPUS)} of them with a simulated GPU), {seconds} s each. Services: {', '.join(SERVICE_SCOPES)}.",
        "",
        f"| percent of one core | {' | '.join(['no lab', *loaded])} |",
        "| --- |" + " ---: |" * (len(loaded) + 1),
    ]
    for name in sorted({*idle, *(name for found in loaded.values() for name in found)}, key=lambda name: (name != "hub", name)):
        each = [idle, *loaded.values()]
        lines.append(f"| {name} | {' | '.join(f'{found.get(name, 0.0):.2f}' for found in each)} |")
    costs = [cost(idle, found) for found in loaded.values()]
    words = [f"**{value:.2f}** ({'met' if value < TARGET_PERCENT else 'missed'})" for value in costs]
    lines.append(f"| services, and the hub beyond no lab | | {' | '.join(words)} |")
    lines += ["", f"The target is under {TARGET_PERCENT:g} % of one core."]
    if arrived:
        p50, p95 = (1e3 * percentile(arrived, value) for value in (50, 95))
        word = "met" if p95 < TARGET_MS else "missed"
        lines += [
            "",
            f"From a commit in the ledger to its event at an open board, {len(arrived)} changes: median {p50:.0f} ms,"
            f" p95 {p95:.0f} ms, slowest {1e3 * max(arrived):.0f} ms. The target is a p95 under {TARGET_MS:g} ms: {word}.",
        ]
    return "\n".join(lines)


def during(hub: HubProcess, seconds: int) -> dict[str, float]:
    """Percent of one core for a while; the first seconds after a change do not count."""
    time.sleep(8)
    before = read(hub)
    time.sleep(seconds)
    return percent(before, read(hub))


def measure(tag: str, labs: int, seconds: int, changes: int) -> tuple[dict[str, float], dict[str, dict[str, float]], list[float]]:
    """Idle, with labs, and with labs and an open board; and how long changes took to it."""
    arrived: list[float] = []
    with tiny.hub(tag, GPUS) as hub:
        hub.start()
        token = hub.token("ana", admin=True)
        idle = during(hub, seconds)
        outcome.say(f"no lab: {idle}")
        fill(hub, tag, labs)
        loaded = {f"{labs} labs": during(hub, seconds)}
        outcome.say(str(loaded))
        board = Board(hub, token)
        if board.status == 200:
            try:
                loaded["and an open board"] = during(hub, seconds)
                outcome.say(str(loaded))
                arrived = latency(hub, board, changes)
            finally:
                board.close()
        else:
            outcome.say(f"no board: {EVENTS} was answered with {board.status}")
    return idle, loaded, arrived


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = outcome.parser("load", "Measure what looking after many running labs costs.")
    parser.add_argument("--labs", type=int, default=200, help="running labs (default: 200)")
    parser.add_argument("--seconds", type=int, default=30, help="length of each reading (default: 30)")
    parser.add_argument("--changes", type=int, default=60, help="changes whose way to the board is timed (default: 60)")
    asked = parser.parse_args(argv)
    origin = outcome.begun(asked)
    with tiny.image() as tag:
        idle, loaded, arrived = measure(tag, asked.labs, asked.seconds, asked.changes)
    samples: dict[str, Any] = {"idle": idle, "loaded": loaded, "board seconds": arrived}
    text = report(asked.labs, asked.seconds, idle, loaded, arrived)
    outcome.write(outcome.path(asked.out, "load", origin), "What looking after many labs costs", origin, text, samples)
    return 0


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())

"""Many requests for few GPUs at the same moment, until the line has drained: `python -m bench.line`.

Owns the run on a real hub: everybody asks for one of the simulated GPUs at once; each request must end as a lab or as a ticket.
Then labs are ended as they come up, and the line must give every ticket its turn, with no GPU held twice at any look.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import requests

from bench import outcome, tiny
from bench.samples import percentile
from bench.subject import BenchError
from spawner.ledger import Ledger
from spawner.model import LeaseState
from tests.support.hub import HubProcess

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 420


@dataclass
class Drained:
    """What was seen.

    Attributes:
        asked: person → seconds until their request was answered, and the answer's status.
        up: person → seconds until their lab was up, from the first request.
        looks: how often leases and containers were looked at.
    """

    asked: dict[str, tuple[float, int]] = field(default_factory=dict)
    up: dict[str, float] = field(default_factory=dict)
    tickets: int = 0
    looks: int = 0
    seconds: float = 0.0


def ask_all(hub: HubProcess, people: Sequence[str], tokens: dict[str, str]) -> dict[str, tuple[float, int]]:
    """Everybody asks at once."""

    def ask(name: str) -> tuple[float, int]:
        began = time.monotonic()
        answer = requests.post(
            f"{hub.url}/hub/api/users/{name}/server",
            headers={"Authorization": f"token {tokens[name]}"},
            json={"user_options": {"profile": "gpu-1"}},
            timeout=120,
        )
        if answer.status_code not in (201, 202, 409):
            raise BenchError(f"the request of {name} was answered with {answer.status_code}: {answer.text[:200]}")
        return time.monotonic() - began, answer.status_code

    found = tiny.each(ask, people, len(people))
    for name, told in found.items():
        if isinstance(told, Exception):
            raise BenchError(f"the request of {name} failed: {told}")
    return found


def require_no_gpu_twice(ledger: Ledger, hub: HubProcess) -> None:
    """No GPU is in two leases, and none in two running containers."""
    leased = Counter(uuid for lease in ledger.active() for uuid in lease.gpus)
    inside = Counter(uuid for uuids in hub.engine.gpus_by_lease(hub.files.name).values() for uuid in uuids)
    for name, found in (("leases", leased), ("containers", inside)):
        twice = [uuid for uuid, count in found.items() if count > 1]
        if twice:
            raise BenchError(f"GPUs in two {name}: {', '.join(twice)}")


def drain(hub: HubProcess, people: Sequence[str], tokens: dict[str, str]) -> Drained:
    """Ask, and end labs as they come up, until nobody waits and nobody holds."""
    ledger = Ledger.open(hub.config.ledger_url)
    seen = Drained()
    try:
        began = time.monotonic()
        seen.asked = ask_all(hub, people, tokens)
        seen.tickets = len(ledger.tickets())
        known = {lease.holder.user for lease in ledger.active()} | {ticket.holder.user for ticket in ledger.tickets()}
        if missing := set(people) - known:
            raise BenchError(f"neither lab nor ticket came of the requests of {', '.join(sorted(missing))}")
        while ledger.tickets() or ledger.active():
            seen.looks += 1
            require_no_gpu_twice(ledger, hub)
            bound = {lease.holder.user for lease in ledger.active() if lease.state is LeaseState.BOUND}
            for name in sorted(bound - set(seen.up)):
                seen.up[name] = time.monotonic() - began
                hub.api("DELETE", f"/users/{name}/server", tokens[name])
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise BenchError(f"after {PATIENCE_SECONDS} s {len(ledger.tickets())} tickets still wait")
            time.sleep(LOOK_SECONDS)
        seen.seconds = time.monotonic() - began
    finally:
        ledger.close()
    if missing := set(people) - set(seen.up):
        raise BenchError(f"never had a lab: {', '.join(sorted(missing))}")
    return seen


def report(seen: Drained, gpus: int) -> str:
    """The readable result."""
    answers = [seconds for seconds, _ in seen.asked.values()]
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(Counter(s for _, s in seen.asked.values()).items()))
    return "\n".join(
        [
            f"{len(seen.asked)} people asked for one of {gpus} simulated GPUs at the same moment;"
            " each lab was ended as soon as it ran.",
            "",
            "| what | |",
            "| --- | ---: |",
            f"| answers of the hub | {statuses} |",
            f"| request to answer, median / slowest | {percentile(answers, 50):.2f} s / {max(answers):.2f} s |",
            f"| tickets after the last answer | {seen.tickets} |",
            f"| labs that came up | {len(seen.up)} of {len(seen.asked)} |",
            f"| until the last lab was up | {max(seen.up.values()):.1f} s |",
            f"| until nobody waited or held | {seen.seconds:.1f} s |",
            f"| looks at leases and containers; GPUs held twice | {seen.looks}; 0 |",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = outcome.parser("line", "Let many ask for few GPUs at once, and drain the line.")
    parser.add_argument("--people", type=int, default=50, help="requests at once (default: 50)")
    parser.add_argument("--gpus", type=int, default=8, help="simulated GPUs (default: 8)")
    asked = parser.parse_args(argv)
    origin = outcome.begun(asked)
    people = [f"person{number:03d}" for number in range(asked.people)]
    with tiny.image() as tag, tiny.hub(tag, asked.gpus) as hub:
        hub.start()
        tokens = {name: hub.token(name) for name in people}
        seen = drain(hub, people, tokens)
    outcome.write(
        outcome.path(asked.out, "line", origin), "Many requests for few GPUs", origin, report(seen, asked.gpus),
        {"asked": seen.asked, "up": seen.up},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

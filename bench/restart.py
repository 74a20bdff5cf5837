"""How long a restart of the hub takes with many running labs, against a restart without any: `python -m bench.restart`.

Owns what is timed: from the start of the hub's process until its API answers and calls every lab ready. The labs are real
containers of a tiny image, started through the hub.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

from bench import cpu, outcome, tiny
from bench.subject import BenchError
from tests.support.hub import HubProcess

TARGET = 1.5
AT_ONCE = 4
# Who asks the hub which labs are ready.
ADMIN = "admin"


def fill(hub: HubProcess, labs: int) -> list[str]:
    """Start so many labs; their owners."""
    people = [f"person{number:03d}" for number in range(labs)]
    api = tiny.api(hub, people, "cpu")
    failed = {name: found for name, found in tiny.each(api.start, people, AT_ONCE).items() if found is not None}
    if failed:
        raise BenchError(f"{len(failed)} of {labs} labs did not start: {next(iter(failed.values()))}")
    return people


def ready(hub: HubProcess, token: str) -> int:
    """How many labs the hub calls ready; -1 where it does not answer."""
    if not hub.answering():
        return -1
    answer = hub.api("GET", "/users?state=ready&limit=200", token)
    return len(answer.json()) if answer.ok else -1


def restart(hub: HubProcess, labs: int, token: str) -> dict[str, float]:
    """Stop the hub as an admin does, start it again and time that; seconds, and CPU seconds of hub and services."""
    hub.terminate()
    engine, began = cpu.engine_seconds(()), time.monotonic()
    hub.start()
    answered = time.monotonic() - began
    hub.wait_for(lambda: ready(hub, token) == labs, 120, "every lab to be ready again")
    everything = time.monotonic() - began
    assert hub.process is not None
    spent = cpu.tree_seconds([hub.process.pid])
    return {
        "answers": answered,
        "all ready": everything,
        "hub CPU": spent,
        "engine CPU": cpu.spent(engine, cpu.engine_seconds(())) or 0.0,
    }


def table(labs: int, empty: Sequence[dict[str, float]], full: Sequence[dict[str, float]]) -> str:
    """Medians side by side."""
    lines = [f"| seconds, median of {len(full)} | no lab | {labs} labs | ratio | |", "| --- | ---: | ---: | ---: | --- |"]
    for what in full[0]:
        without, with_labs = (statistics.median(sample[what] for sample in samples) for samples in (empty, full))
        ratio = with_labs / without if without else float("nan")
        word = ("met" if ratio <= TARGET else "missed") if what == "all ready" else ""
        lines.append(f"| {what} | {without:.2f} | {with_labs:.2f} | {ratio:.2f} | {word} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = outcome.parser("restart", "Measure a restart of the hub with running labs against one without.")
    parser.add_argument("--labs", type=int, default=50, help="running labs (default: 50)")
    parser.add_argument("--repeats", type=int, default=7, help="restarts of each hub, in turn (default: 7)")
    asked = parser.parse_args(argv)
    origin = outcome.begun(asked)
    empty: list[dict[str, float]] = []
    full: list[dict[str, float]] = []
    with tiny.image() as tag, tiny.hub(tag, 2) as bare, tiny.hub(tag, 2) as busy:
        bare.start()
        hubs = [(bare, 0, bare.token(ADMIN, admin=True), empty)]
        bare.terminate()
        busy.start()
        fill(busy, asked.labs)
        hubs.append((busy, asked.labs, busy.token(ADMIN, admin=True), full))
        busy.terminate()
        for number in range(asked.repeats):
            for hub, labs, token, samples in hubs:
                samples.append(restart(hub, labs, token))
                hub.terminate()
            outcome.say(
                f"{number + 1}/{asked.repeats}: without {empty[-1]['all ready']:.2f} s, with {full[-1]['all ready']:.2f} s"
            )
    text = f"The target is {TARGET:g} times a restart without labs.\n\n{table(asked.labs, empty, full)}"
    outcome.write(
        outcome.path(asked.out, "restart", origin), "A restart of the hub with running labs", origin, text,
        {"empty": empty, "full": full},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

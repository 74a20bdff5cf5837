"""The command line of the measurement: `python -m bench`, or `make bench`.

Owns the order of a run and its cleaning up, also after an interruption. Never computes a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import docker.errors
import yaml

from bench import image, machine, measure, report
from bench.lab import MEMORY, Lab
from bench.plain import Floor, Network, Plain
from bench.samples import Sample, order
from bench.subject import BenchError, Subject
from scripts import images
from tests.support.hub import REPO

SUBJECTS = ("lab", "plain", "floor", "floor-plain")
RESULTS = Path(__file__).with_name("results")
ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def say(words: str) -> None:
    """One line of progress."""
    print(words, flush=True)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure this lab against plain JupyterHub.")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8], help="users at once (default: 1 8)")
    parser.add_argument("--repeats", type=int, nargs="+", default=[12, 5], help="rounds for each number of users (default: 12 5)")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="whom to measure")
    parser.add_argument("--seed", type=int, default=None, help="seed of the order (default: a new one, printed)")
    parser.add_argument("--quiet-load", type=float, default=0.7, help="load average to wait for (default: 0.7)")
    parser.add_argument("--quiet-wait", type=float, default=600, help="seconds to wait for it at most (default: 600)")
    parser.add_argument("--keep-image", action="store_true", help="leave the peer's image for the next run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: bench/results)")
    found = parser.parse_args(argv)
    if len(found.repeats) == 1:
        found.repeats *= len(found.users)
    if len(found.repeats) != len(found.users) or min(*found.users, *found.repeats) < 1:
        parser.error("--repeats takes one number, or one for each number of --users; all of them 1 or more")
    found.seed = secrets.randbelow(10**6) if found.seed is None else found.seed
    return found


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ask to end like Ctrl-C does, and let nothing interrupt the cleaning up."""

    def end(signum: int, _frame: object) -> None:
        for other in ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        say("Ending: what is being started comes up first, then everything is removed.")
        raise KeyboardInterrupt(signal.Signals(signum).name)

    before = {signum: signal.signal(signum, end) for signum in ENDINGS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def opened(client: Any, run: str, lab_image: str, plain_image: str, wanted: Sequence[str]) -> Iterator[dict[str, Subject]]:
    """The subjects, ready to be measured; everything of theirs is gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpulab-bench-")))
        network = Network(client, f"gpulab-bench-{run}-plain")
        stack.callback(network.close)
        network.open()
        found: dict[str, Subject] = {
            "floor": Floor(client, network, lab_image, "floor"),
            "floor-plain": Floor(client, network, plain_image, "floor-plain"),
        }
        if "lab" in wanted:
            (folder / "lab").mkdir()
            lab = Lab(folder / "lab", run, lab_image)
            stack.callback(lab.close)
            lab.open()
            found["lab"] = lab
        if "plain" in wanted:
            (folder / "plain").mkdir()
            plain = Plain(client, folder / "plain", network, plain_image)
            stack.callback(plain.close)
            plain.open()
            found["plain"] = plain
        yield {name: found[name] for name in wanted}


def warm_up(client: Any, subjects: dict[str, Subject]) -> None:
    """One round of each that does not count: it brings both images into the page cache and both hubs into their stride."""
    for name, subject in subjects.items():
        for sample in measure.rounds(client, subject, [f"warm{name.replace('-', '')}"], 0):
            say(f"warm-up: {line(sample)}")


def run_all(client: Any, subjects: dict[str, Subject], users: int, repeats: int, seed: int) -> Iterator[Sample]:
    """All rounds for one number of users."""
    for number, turn in enumerate(order(list(subjects), repeats, seed + users), 1):
        for name in turn:
            # New people in every round, so that a first start is one.
            people = [f"u{users}r{number}{name.replace('-', '')}p{place}" for place in range(1, users + 1)]
            for sample in measure.rounds(client, subjects[name], people, number):
                say(f"{number}/{repeats}: {line(sample)}")
                yield sample


def line(sample: Sample) -> str:
    """A sample on one line of progress."""
    return (
        f"{sample.subject:11} {sample.users} user{'s' if sample.users > 1 else ' '} {sample.occasion:5} "
        f"serving {max(sample.serving):6.2f} s, ready {max(sample.ready):6.2f} s, stopped {sample.stop:5.2f} s, "
        f"CPU {sample.cpu.counted / sample.users:5.2f} s per start, load {sample.load:.2f}"
    )


def facts(client: Any, lab_image: str, plain_image: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What the result says about its origin."""
    inside = {name: image.versions(client, tag) for name, tag in (("lab", lab_image), ("plain", plain_image))}
    image.require_same_versions(inside["lab"], inside["plain"])
    return {
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "engine": machine.engine(client),
        "hubs": machine.hub(),
        "lab image": inside["lab"],
        "plain image": inside["plain"],
        "rounds": {f"{users} at once:": count for users, count in zip(asked.users, asked.repeats, strict=True)},
        "lab profile": f"cpu as shipped, memory {MEMORY}",
    }


def write(folder: Path, samples: Sequence[Sample], names: Sequence[str], origin: dict[str, Any], seed: int) -> Path:
    """Write both files; returns the path of the readable one."""
    folder.mkdir(parents=True, exist_ok=True)
    about = origin["machine"]
    target = folder / f"{origin['when'][:10]}-{machine.slug(about['cpu'], int(about['cores']))}.md"
    target.write_text(report.as_markdown(samples, names, origin, seed))
    target.with_suffix(".json").write_text(json.dumps(report.as_json(samples, names, origin, seed), indent=1) + "\n")
    return target


def measure_all(client: Any, asked: argparse.Namespace) -> Path:
    """The whole run; returns the path of the readable result."""
    run = secrets.token_hex(3)
    lab_image = yaml.safe_load((REPO / "lab.yaml").read_text())["image"]
    with contextlib.ExitStack() as stack:
        lab, plain = stack.enter_context(image.both(client, lab_image, run, asked.keep_image))
        origin = facts(client, lab, plain, asked)
        subjects = stack.enter_context(opened(client, run, lab, plain, asked.subjects))
        say(f"seed {asked.seed}")
        warm_up(client, subjects)
        machine.wait_until_quiet(asked.quiet_load, asked.quiet_wait)
        samples: list[Sample] = []
        for users, repeats in zip(asked.users, asked.repeats, strict=True):
            samples += run_all(client, subjects, users, repeats, asked.seed)
    return write(asked.out, samples, asked.subjects, origin, asked.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    asked = arguments(argv)
    try:
        with interruptible():
            client = images.engine()
            target = measure_all(client, asked)
    except (BenchError, images.Problem, AssertionError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    except docker.errors.DockerException as error:
        print(f"Nothing was written; the Docker engine failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing was written, and everything that the run had started is gone.", file=sys.stderr)
        return 130
    say(target.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

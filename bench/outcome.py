"""How measurements write their results: one readable file and one with every sample, with machine and versions.

Owns names and the head of the files. Never measures and never computes a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import docker

from bench import machine

RESULTS = Path(__file__).with_name("results")


def say(words: str) -> None:
    """One line of progress."""
    print(words, flush=True)


def parser(module: str, about: str) -> argparse.ArgumentParser:
    """The command line of a measurement, with what all of them take."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=about)
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: bench/results)")
    made.add_argument("--quiet-load", type=float, default=0.7, help="load average to wait for (default: 0.7)")
    made.add_argument("--quiet-wait", type=float, default=300, help="seconds to wait for it at most (default: 300)")
    return made


def begun(asked: argparse.Namespace, engine: bool = True, versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Wait for a quiet machine, but not for ever; then where a result comes from.

    Args:
        asked: the command line.
        engine: whether Docker has a part in it.
        versions: of what was measured, where that is not the hub.
    """
    machine.wait_until_quiet(asked.quiet_load, asked.quiet_wait)
    found: dict[str, Any] = {
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "load before": _load(),
    }
    if versions is None:
        found |= {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "versions": machine.hub()}
    else:
        found["versions"] = dict(versions)
    if engine:
        found["engine"] = machine.engine(docker.from_env())
    return found


def path(folder: Path, name: str, origin: Mapping[str, Any], gpus: Sequence[str] = ()) -> Path:
    """Path of the readable result; GPUs that had a part in it are in its name."""
    folder.mkdir(parents=True, exist_ok=True)
    about = origin["machine"]
    kind = machine.slug(about["cpu"], int(about["cores"]))
    return folder / f"{origin['when'][:10]}-{name}-{kind}{machine.gpu_slug(gpus)}.md"


def write(target: Path, title: str, origin: Mapping[str, Any], text: str, samples: Any) -> None:
    """Write both files; the load after a run includes its own work."""
    origin = {**origin, "load after": _load()}
    lines = [f"# {title}", "", *(f"- {name}: {_words(told)}" for name, told in origin.items()), "", text.strip(), ""]
    target.write_text("\n".join(lines))
    target.with_suffix(".json").write_text(json.dumps({"origin": dict(origin), "samples": samples}, indent=1) + "\n")
    say(target.read_text())


def _load() -> str:
    return ", ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)"


def _words(told: Any) -> str:
    if isinstance(told, Mapping):
        return ", ".join(f"{name} {value}" for name, value in told.items())
    return "; ".join(map(str, told)) or "none" if isinstance(told, list) else str(told)

"""Reads what a lab wrote about its memory, and puts an ending into words.

Owns the form of the guard's line in a container's log (`images/pytorch/guard.py` writes it) and the sentences about labs and
kernels that ended. Pure; never asks an engine. Whatever comes out of a container is hostile: it is bounded, checked field by
field, and *unknown* on any doubt.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone

from spawner.model import Profile
from spawner.profiles import gib, size_text
from spawner.records import MemoryDeath, MemoryReport, Remains

MARK = b"gpulab-memory: "
MOST_BYTES = 4096
MOST_DEATHS = 4
MOST_LETTERS = 60
_WHAT = ("kernel", "server", "process")
_SIGKILL = 9
_KILLED = 128 + _SIGKILL
# More than any machine has, and less than what breaks a formatter.
_MOST = 1 << 60
ENDED = "The lab ended."


def parse(log: bytes) -> MemoryReport | None:
    """The latest report in the end of a log; None where there is none that can be believed."""
    start = log.rfind(MARK)
    if start < 0 or (start and log[start - 1] not in b"\n"):
        return None
    line = log[start + len(MARK) : start + len(MARK) + MOST_BYTES].partition(b"\n")[0]
    try:
        # A depth or a number that Python itself refuses is refused here too.
        facts = json.loads(line)
        if not isinstance(facts, dict) or facts.get("v") != 1 or not isinstance(facts.get("deaths"), list):
            return None
        deaths = tuple(_death(entry) for entry in facts["deaths"][-MOST_DEATHS:])
    except (ValueError, RecursionError, OverflowError, OSError):
        return None
    signum = _number(facts.get("signal"), 64)
    return MemoryReport(_number(facts.get("kills"), _MOST), _number(facts.get("peak"), _MOST), signum or 0, deaths)


def _death(entry: object) -> MemoryDeath:
    if not isinstance(entry, dict) or entry.get("what") not in _WHAT:
        raise ValueError("not a death")
    at = _number(entry.get("at"), 1 << 33)
    if at is None:
        raise ValueError("no moment")
    moment = datetime.fromtimestamp(at, timezone.utc)
    notebook = _text(entry.get("notebook")).rpartition("/")[2]
    return MemoryDeath(moment, entry["what"], _text(entry.get("name")), notebook, _number(entry.get("rss"), _MOST))


def _number(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(letter for letter in value if letter.isprintable())[:MOST_LETTERS].strip()


def for_memory(remains: Remains, report: MemoryReport | None) -> bool | None:
    """Whether a lab ended because its memory was full; None where that cannot be told.

    The engine's own mark is not enough: it stands also where a kernel was killed and the lab ended later for another reason.
    """
    if remains.exit_code != _KILLED:
        return False
    if report is not None and report.signal and report.kills is not None:
        return any(death.what == "server" for death in report.deaths)
    # The guard could not write any more, or there is none in this image.
    return True if remains.oom_killed else None


def why(remains: Remains, profile: Profile | None, larger: Profile | None) -> str:
    """Why a lab is not running, in words for its owner.

    Args:
        remains: what the engine knows.
        profile: the lab's; None where lab.yaml has it no more.
        larger: the next larger profile; None where there is none, or it is not known.
    """
    report = parse(remains.log)
    memory = for_memory(remains, report)
    if memory is None:
        return (
            "The lab was killed, most likely because it used more memory than its profile allows. "
            f"Which process took it is unknown. {_advice(remains.memory, larger)}"
        )
    if memory:
        title = f" “{profile.title}”" if profile else ""
        return (
            f"The lab was stopped because it used more memory than its profile{title} allows: {_sizes(remains.memory, report)}. "
            f"{_victims(report)} {_advice(remains.memory, larger)}"
        )
    if remains.exit_code == _KILLED:
        return "The lab was killed from outside, not for memory; your admin may know why."
    if remains.error:
        return f"The lab could not run: {remains.error}"
    return f"The lab ended with exit code {'unknown' if remains.exit_code is None else remains.exit_code}."


def by_itself(remains: Remains) -> bool:
    """Whether the lab ended the way it ends when its owner shuts it down; nobody needs to be told then."""
    return remains.exit_code in (0, 128 + 15) and not remains.error


def kill(death: MemoryDeath, memory: int, larger: Profile | None) -> str:
    """What was killed in a lab that runs on, in words for its owner."""
    held = f"; it held {weight} GB when it was last seen" if (weight := _weight(death)) else ""
    limit = f" of {size_text(memory)}" if memory else ""
    lost = "Its variables are lost, files are not." if death.what == "kernel" else "Files are kept."
    return f"{_named(death)} was killed because the lab's memory{limit} was full{held}. {lost} {_advice(memory, larger)}"


def _sizes(memory: int, report: MemoryReport | None) -> str:
    limit = f"the limit is {size_text(memory)}" if memory else "the limit is unknown"
    peak = report.peak if report else None
    return f"{limit}, the most it used {'is unknown' if peak is None else f'was {size_text(peak)}'}"


def _victims(report: MemoryReport | None) -> str:
    others = [death for death in report.deaths if death.what != "server"] if report else []
    if report is None:
        return "Which process took it is unknown."
    if not others:
        return "JupyterLab itself was killed; no other process was left to end."
    # What is in /dev/shm belongs to no process, so the biggest may have been small.
    biggest = max(others, key=lambda death: death.rss or 0)
    held = f", which held {weight} GB," if (weight := _weight(biggest)) else ""
    return f"{_named(biggest)}{held} was killed first, then JupyterLab itself."


def _weight(death: MemoryDeath) -> str:
    weight = gib(death.rss or 0)
    return "" if weight == "0" else weight


def _named(death: MemoryDeath) -> str:
    if death.what == "server":
        return "JupyterLab itself"
    notebook = f" of “{death.notebook}”" if death.notebook else ""
    if death.what == "kernel":
        return f"The kernel{notebook}" if notebook else "A kernel"
    if not death.name:
        return "A process whose name is unknown"
    return f"The process “{death.name}”{notebook}"


def _advice(memory: int, larger: Profile | None) -> str:
    if larger is None:
        return "Use smaller batches, or load less at once."
    return f"The next larger profile is “{larger.title}” with {size_text(larger.memory)}; or use smaller batches."

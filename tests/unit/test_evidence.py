"""What a lab wrote about its memory: read with suspicion, told in words."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import evidence, profiles
from spawner.model import HostCapacity
from spawner.records import MemoryDeath, MemoryReport, Remains
from tests.unit.values import make_gpu, make_profile

GB = 1 << 30
MOMENT = datetime(2026, 1, 5, 14, 2, tzinfo=timezone.utc)
KERNEL = {"at": int(MOMENT.timestamp()), "what": "kernel", "name": "python", "notebook": "/home/x/train.ipynb", "rss": 7 * GB}
SERVER = {"at": int(MOMENT.timestamp()), "what": "server"}
LARGER = make_profile(key="big", title="Big", memory=16 * GB)


def line(**changes: Any) -> bytes:
    facts = {"v": 1, "kills": 1, "peak": 8 * GB, "signal": 0, "deaths": [KERNEL]}
    return b"gpulab-memory: " + json.dumps({**facts, **changes}).encode() + b"\n"


def remains(code: int | None = 137, *, oom: bool = True, log: bytes = b"", error: str = "") -> Remains:
    return Remains(code, oom, error, 8 * GB, log)


def test_latest_report_counts():
    log = b"starting\n" + line() + b"more\n" + line(kills=2, signal=9, deaths=[KERNEL, SERVER]) + b"the end\n"
    report = evidence.parse(log)
    assert report == MemoryReport(
        2, 8 * GB, 9, (MemoryDeath(MOMENT, "kernel", "python", "train.ipynb", 7 * GB), MemoryDeath(MOMENT, "server"))
    )


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"gpulab-memory: ",
        b"gpulab-memory: null\n",
        b"gpulab-memory: [1]\n",
        b"gpulab-memory: " + b"[" * 4000 + b"\n",
        b"gpulab-memory: " + b"9" * 4090 + b"\n",
        b"quoted: gpulab-memory: {}\n",
        line(v=2),
        line(deaths="x"),
        line(deaths=[{"what": "kernel"}]),
        line(deaths=[{**KERNEL, "at": -5}]),
        line(deaths=[{**KERNEL, "at": 1e300}]),
        line(deaths=[{**KERNEL, "what": "<b>"}]),
        line()[:40],
    ],
)
def test_whatever_is_not_a_report_is_none(log: bytes):
    assert evidence.parse(log) is None


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DEATH = st.fixed_dictionaries(
    {"at": st.integers(-(2**70), 2**70) | ODD, "what": st.sampled_from(["kernel", "server", "process"]) | ODD},
    optional={"name": ODD, "notebook": ODD, "rss": ODD | st.integers(-(2**70), 2**70)},
)
REPORT = st.fixed_dictionaries(
    {"v": st.just(1) | ODD, "deaths": st.lists(DEATH, max_size=8) | ODD},
    optional={"kills": ODD, "peak": ODD | st.integers(0, 2**70), "signal": ODD},
)


@given(
    log=st.binary(max_size=300)
    | st.builds(lambda facts, tail: b"gpulab-memory: " + json.dumps(facts).encode() + tail, REPORT, st.binary(max_size=9)),
    code=st.integers(0, 255) | st.none(),
    oom=st.booleans(),
)
def test_hostile_evidence_never_breaks_and_stays_short_and_printable(log: bytes, code: int | None, oom: bool):
    report = evidence.parse(log)
    told = [evidence.why(remains(code, oom=oom, log=log), make_profile(), LARGER)]
    if report is not None:
        assert len(report.deaths) <= evidence.MOST_DEATHS
        told += [evidence.kill(death, 8 * GB, LARGER) for death in report.deaths]
    for text in told:
        assert text.isprintable()
        assert len(text) < 600


def test_a_lab_killed_for_memory_says_limit_peak_process_and_next_profile():
    told = evidence.why(remains(log=line(kills=2, signal=9, deaths=[KERNEL, SERVER])), make_profile(title="1 GPU"), LARGER)
    assert told == (
        "The lab was stopped because it used more memory than its profile “1 GPU” allows: the limit is 8 GB, the most it used "
        "was 8 GB. The kernel of “train.ipynb”, which held 7 GB, was killed first, then JupyterLab itself. "
        "The next larger profile is “Big” with 16 GB; or use smaller batches."
    )


@pytest.mark.parametrize(
    ("left", "part"),
    [
        (remains(oom=True), "the most it used is unknown. Which process took it is unknown."),
        (remains(oom=False), "most likely because it used more memory"),
        (remains(log=line(signal=9, deaths=[SERVER])), "JupyterLab itself was killed; no other process"),
        (remains(log=line(signal=9, deaths=[SERVER, {**KERNEL, "rss": 9}])), "“train.ipynb” was killed first, then JupyterLab"),
        (remains(log=line(signal=9)), "killed from outside, not for memory"),
        (remains(oom=False, log=line(signal=9, kills=0, deaths=[])), "killed from outside, not for memory"),
        (remains(log=line(signal=9, kills=None)), "was stopped because it used more memory"),
        (remains(oom=False, log=line(signal=9, kills=None)), "most likely because it used more memory"),
        (remains(0, log=line()), "ended with exit code 0."),
        (remains(None), "exit code unknown"),
        (remains(127, error="no such program"), "could not run: no such program"),
    ],
)
def test_what_is_not_known_is_not_claimed(left: Remains, part: str):
    assert part in evidence.why(left, make_profile(), None)


def test_an_end_by_its_owner_is_not_told():
    assert [evidence.by_itself(remains(code)) for code in (0, 143, 1, 137)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("death", "part"),
    [
        (MemoryDeath(MOMENT, "kernel", "python", "train.ipynb", 7 * GB), "The kernel of “train.ipynb” was killed because"),
        (MemoryDeath(MOMENT, "kernel"), "A kernel was killed because the lab's memory of 8 GB was full. Its variables are lost"),
        (MemoryDeath(MOMENT, "process", "python train.py"), "The process “python train.py” was killed"),
        (MemoryDeath(MOMENT, "process"), "A process whose name is unknown was killed"),
    ],
)
def test_a_kill_in_a_running_lab_is_told(death: MemoryDeath, part: str):
    assert part in evidence.kill(death, 8 * GB, None)


def named(key: str, gpus: int, memory: int) -> Any:
    return make_profile(key=key, title=key, gpus=gpus, memory=memory * GB)


@pytest.mark.parametrize(
    ("mine", "offered", "next_one"),
    [
        (named("a", 1, 8), [named("b", 1, 32), named("c", 1, 16)], "c"),
        (named("a", 1, 8), [named("b", 2, 16), named("c", 1, 32)], "c"),
        (named("a", 2, 8), [named("b", 3, 16), named("c", 1, 32)], "c"),
        (named("a", 1, 8), [named("b", 2, 16), named("c", 0, 12)], "b"),
        (named("a", 0, 8), [named("b", 1, 16), named("c", 0, 8)], "b"),
        (named("a", 1, 8), [named("b", 1, 8), named("c", 1, 4)], None),
        (named("a", 1, 8), [named("b", 1, 128), named("c", 9, 16)], None),
    ],
)
def test_next_larger_profile_is_the_smallest_that_the_host_can_give(mine: Any, offered: list[Any], next_one: str | None):
    gpus = [make_gpu(index) for index in range(4)]
    found = profiles.next_larger(mine, [mine, *offered], HostCapacity(8, 64 * GB), gpus)
    assert (found.key if found else None) == next_one

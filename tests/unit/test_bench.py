"""The pure parts of the measurement: statistics, order, tables, the reading of /proc and of a hub's events."""

from __future__ import annotations

import itertools
import json
import os
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as command_line
from bench import cpu, machine, measure, report
from bench.samples import AGAIN, FIRST, Cpu, Ratio, Sample, order, percentile, ratio, ready_median, summarise
from bench.subject import BenchError, await_ready

QUIET = Cpu(containers=1.5, hub=0.1, engine=0.2, machine=2.0)


def sample(subject: str, *ready: float, occasion: str = FIRST, cpu: Cpu = QUIET) -> Sample:
    return Sample(subject, len(ready), occasion, 1, tuple(x - 0.5 for x in ready), ready, stop=1.0, cpu=cpu, load=0.2)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentile_interpolates(percent: float, expected: float):
    assert percentile([4, 1, 3, 2], percent) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentile_50_is_the_median(values: list[float]):
    assert percentile(values, 50) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_percentile_of_nothing_is_refused(values: list[float], percent: float):
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


@given(st.integers(1, 4), st.integers(1, 20), st.integers())
def test_order_is_fair_alternating_and_repeatable(subjects: int, rounds: int, seed: int):
    names = [f"subject {number}" for number in range(subjects)]
    plan = order(names, rounds, seed)
    assert plan == order(names, rounds, seed)
    assert all(sorted(turn) == names for turn in plan)
    flat = [name for turn in plan for name in turn]
    assert subjects == 1 or all(a != b for a, b in itertools.pairwise(flat))


def test_order_differs_between_seeds():
    assert len({str(order("ab", 12, seed)) for seed in range(10)}) > 1


def test_summary_pools_users_and_counts_cpu_per_start():
    found = summarise([sample("lab", 2.0, 4.0), sample("lab", 3.0, 9.0)])
    assert (found.users, found.rounds) == (2, 2)
    assert found.ready_median == 3.5
    assert found.serving_median == 3.0
    assert found.ready_all == 6.5
    assert found.cpu_per_start == pytest.approx(0.9)
    assert found.cpu_machine == 1.0


def test_engine_time_that_cannot_be_read_is_not_called_zero():
    found = summarise([sample("lab", 2.0, cpu=Cpu(1.5, 0.1, None, 2.0))])
    assert found.cpu_engine is None
    assert "n/a" in report.row(found)


def test_ratio_of_clearly_slower_rounds_says_so():
    ours = [sample("lab", x) for x in (4.0, 4.1, 4.2)]
    theirs = [sample("plain", x) for x in (2.0, 2.1, 2.2)]
    assert ratio(ready_median, ours, theirs, seed=1).verdict == "slower"
    assert ratio(ready_median, theirs, ours, seed=1).verdict == "faster"


def test_ratio_of_scattered_rounds_claims_nothing():
    ours = [sample("lab", x) for x in (2.0, 5.0, 2.2, 4.8)]
    theirs = [sample("plain", x) for x in (2.1, 4.9, 2.0, 5.0)]
    found = ratio(ready_median, ours, theirs, seed=1)
    assert found.low < found.value < found.high
    assert found.verdict == "no difference shown"


SAMPLES = [
    sample("lab", 4.0), sample("plain", 2.0), sample("floor", 1.0),
    sample("lab", 2.0, occasion=AGAIN), sample("plain", 4.0, occasion=AGAIN),
]  # fmt: skip
SUBJECTS = ("lab", "plain", "floor")
FACTS = {"when": "2026-01-02 03:04 UTC", "machine": {"cpu": "Some", "cores": "2"}}


def test_markdown_has_facts_rows_and_a_bold_loss():
    text = report.as_markdown(SAMPLES, SUBJECTS, FACTS, seed=7)
    assert "- machine: cpu Some, cores 2" in text
    assert "- seed: 7" in text
    assert "| 1 | first start | floor | 1 | 0.50 | 1.00 |" in text
    assert "| 1, first start | **2.33 (2.33–2.33)** | **2.00 (2.00–2.00)** |" in text
    assert "| 1, next start | 0.43 (0.43–0.43) | 0.50 (0.50–0.50) |" in text


def test_tables_are_rectangular():
    tables = [line.count("|") for line in report.as_markdown(SAMPLES, SUBJECTS, FACTS, seed=7).splitlines() if line[:1] == "|"]
    widths = [width for place, width in enumerate(tables) if place == 0 or tables[place - 1] != width]
    assert len(widths) == 2, "two tables, each with one width"


def test_markdown_tells_how_busy_the_machine_was_otherwise():
    assert "10% in the median" in report.as_markdown(SAMPLES, SUBJECTS, FACTS, seed=7)


def test_json_keeps_every_sample():
    found = json.loads(json.dumps(report.as_json(SAMPLES, SUBJECTS, FACTS, seed=7)))
    assert [entry["ready"] for entry in found["samples"]] == [[4.0], [2.0], [1.0], [2.0], [4.0]]
    assert found["ratios_lab_to_plain"][1]["ready_median"]["value"] == 0.5
    assert found["facts"]["when"] == FACTS["when"]


def test_ratios_need_both():
    assert report.ratios([sample("lab", 1.0), sample("floor", 1.0)], seed=1) == {}


def test_verdict_needs_the_whole_interval():
    assert Ratio(1.1, 0.99, 1.2).verdict == Ratio(0.9, 0.8, 1.0).verdict == "no difference shown"


# --- processes ----


def stat(pid: int, name: str, parent: int, *times: int) -> str:
    return f"{pid} ({name}) S {parent} {' '.join(['0'] * 9)} {' '.join(map(str, times))} 20 0 1 0\n"


def test_process_name_may_hold_anything():
    found = cpu.parse_stat(stat(7, "a) b (c", 3, 1, 2, 30, 400))
    assert (found.pid, found.parent, found.name) == (7, 3, "a) b (c")
    assert found.seconds == pytest.approx(433 / cpu.TICKS)


def test_tree_stops_at_the_shims():
    lines = [(1, "init", 0), (2, "dockerd", 1), (3, "containerd", 2), (4, "containerd-shim", 3), (5, "python", 4), (6, "sh", 1)]
    among = {pid: cpu.parse_stat(stat(pid, name, parent, 1, 1, 1, 1)) for pid, name, parent in lines}
    assert cpu.tree([2, 3, 99], among) == {2, 3}


def test_an_engine_that_ended_meanwhile_takes_nothing_back():
    assert cpu.spent({1: 5.0, 2: 90.0}, {1: 6.0, 3: 0.5}) == 1.5
    assert cpu.spent({}, {}) is None


def test_own_process_uses_cpu():
    before = cpu.tree_seconds([os.getpid()])
    while cpu.tree_seconds([os.getpid()]) <= before:
        pass
    assert cpu.machine_seconds() > 0


# --- talk with a hub ----


def test_ready_event_ends_the_wait():
    await_ready("ada", ["", 'data: {"progress": 20}', 'data: {"progress": 100, "ready": true}', "data: not read any more"])


@pytest.mark.parametrize("lines", [['data: {"progress": 100, "failed": true, "message": "no such image"}'], [""]])
def test_failed_or_broken_progress_is_an_error(lines: list[str]):
    with pytest.raises(BenchError, match="ada"):
        await_ready("ada", lines)


def test_serving_is_the_last_word_of_the_log():
    log = (
        "2026-11-28T03:31:00.000000001Z Jupyter Server 2 is running at:\n"
        "2026-11-28T03:32:00.500000999Z Jupyter Server 2 is running at:\n"
        "2026-11-28T03:33:00.000000000Z something else\n"
    )
    assert measure.serving_at(log) == 1795836720.5
    assert measure.serving_at("2026-11-28T03:33:00.000000000Z something else\n") is None


def test_at_once_waits_for_all_and_tells_the_failure():
    done = []

    def action(user: str) -> None:
        if user == "b":
            raise BenchError("b failed")
        done.append(user)

    with pytest.raises(BenchError, match="b failed"):
        measure.at_once(action, ["a", "b", "c"])
    assert sorted(done) == ["a", "c"]


# --- command line ----


def test_one_number_of_repeats_holds_for_all():
    assert command_line.arguments(["--repeats", "3"]).repeats == [3, 3]


@pytest.mark.parametrize(
    "argv", [["--repeats", "0"], ["--users", "1", "--repeats", "1", "2"], ["--users", "0"], ["--subjects", "x"]]
)
def test_nonsense_is_refused(argv: list[str]):
    with pytest.raises(SystemExit):
        command_line.arguments(argv)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("AMD EPYC", "amd-epyc-2c"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4-2c"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "amd-ryzen-9-7950x-2c"),
        ("", "unknown-2c"),
    ],
)
def test_machine_is_named_by_its_kind(model: str, expected: str):
    assert machine.slug(model, 2) == expected


def test_processor_is_found_or_the_architecture_is():
    assert machine.cpu_model("processor: 0\nmodel name\t: Some   CPU\n") == "Some CPU"
    assert machine.cpu_model("") == os.uname().machine

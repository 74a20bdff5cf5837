"""Who exceeds their seat of a shared GPU is warned and then stopped; what cannot be told is held against nobody."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from spawner import seats, sharing
from spawner.grants import SharingRule
from spawner.records import GpuProcess, GpuSample
from spawner.told import TroubleKind
from tests.unit.values import T0, after, make_gpu, make_lease

GPU = make_gpu(0)
RULE = SharingRule(frozenset({GPU.uuid}), frozenset(), 2)
UNITS = {unit.uuid: unit for unit in sharing.units([GPU], [RULE])}
SEAT = f"{GPU.uuid}#0"
LEASE = make_lease(gpus=(SEAT,))
GRACE = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


def sample(*processes: tuple[int, int | None], at=T0, memory: int | None = 20_000) -> dict[str, GpuSample]:
    found = tuple(GpuProcess(pid, used) for pid, used in processes)
    return {GPU.uuid: GpuSample(GPU.uuid, at, 10, memory, processes=found)}


@pytest.mark.parametrize(
    ("samples", "held"),
    [
        (sample((1, 5000), (2, 6000), (3, 9000)), 11_000),
        (sample((3, 9000)), 0),
        (sample((1, None), (2, 6000)), None),
        (sample((1, 5000), (3, None)), 5000),
        ({}, None),
        (sample((1, 5000), at=after(-120)), None),
        (sample((1, 5000), memory=None), None),
        ({GPU.uuid: GpuSample(GPU.uuid, T0, 10, 20_000)}, None),
    ],
)
def test_only_the_labs_own_processes_count_and_what_the_driver_does_not_say_is_unknown(samples, held):
    assert seats.used(LEASE, samples, {1: LEASE.id, 2: LEASE.id, 3: "other"}, T0) == {SEAT: held}


def test_a_whole_gpu_is_no_seat():
    assert seats.used(make_lease(gpus=(GPU.uuid,)), sample((1, 99_000)), {1: LEASE.id}, T0) == {}


def verdicts(*held: int | None, start=None, gap=MINUTE, watched=MINUTE):
    before, found = start, []
    for number, used in enumerate(held):
        verdict = seats.decide(LEASE, {SEAT: used}, UNITS, before, GRACE, T0 + number * gap, watched)
        before = verdict.trouble
        found.append(verdict)
    return found


def test_who_exceeds_the_seat_is_warned_with_numbers_and_stopped_after_the_grace():
    found = verdicts(12_001, *[13_000] * 5)
    first = found[0].trouble
    assert first is not None
    assert (first.kind, first.stop_at) == (TroubleKind.SEAT, T0 + GRACE)
    assert "uses 11.7 GiB of a shared GPU" in first.text
    assert "its seat is 11.7 GiB" in first.text
    assert [verdict.stop for verdict in found] == [False] * 5 + [True]
    last = found[-1].trouble
    assert last is not None
    assert last.text.startswith("The lab was stopped: it went on using more than its seat.")


def test_who_frees_the_memory_is_let_be():
    found = verdicts(13_000, 13_000, 12_000, *[13_000] * 5)
    assert found[2].trouble is None
    assert not any(verdict.stop for verdict in found), "the grace begins anew"


@pytest.mark.parametrize("used", [12_000, 0])
def test_a_seat_may_be_used_to_its_brim(used):
    assert verdicts(used)[0].trouble is None


def test_unknown_neither_warns_nor_stops_nor_forgives():
    assert verdicts(None)[0].trouble is None
    found = verdicts(13_000, *[None] * 20, *[13_000] * 5)
    assert [verdict.stop for verdict in found] == [False] * 25 + [True]


@pytest.mark.parametrize("gap", [timedelta(days=1), -timedelta(days=1)])
def test_a_clock_that_jumps_stops_nobody_early(gap):
    found = verdicts(*[13_000] * 6, gap=gap)
    assert [verdict.stop for verdict in found] == [False] * 5 + [True]


def test_a_watchdog_that_was_away_begins_where_it_was():
    start = verdicts(13_000)[0].trouble
    assert start is not None
    away = seats.decide(LEASE, {SEAT: 13_000}, UNITS, start, GRACE, after(86_400), None)
    assert not away.stop
    assert away.trouble == dataclasses.replace(start, stop_at=after(86_400) + GRACE, seen=after(86_400))

"""Accounting: what counts as a GPU-hour, for whom, and that nothing is counted twice or lost."""

from __future__ import annotations

import csv
import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import periods, sheets, usage
from spawner.errors import RequestError
from spawner.usage import BY, Refusals, Row, Span, Spell, Waiting
from tests.unit.values import T0, after

HOUR = 3600.0
GPU = "GPU-00000000-0000-4000-8000-00000000000"


def span(since: float, until: float, now: float | None = None) -> Span:
    return Span(after(since * HOUR), after(until * HOUR), after((until if now is None else now) * HOUR))


def spell(
    user: str = "ana", units: tuple[str, ...] = (GPU + "1",), began: float = 0, ended: float | None = 1, **more: object
) -> Spell:
    values = {"groups": (), "profile": "gpu-1"} | more
    stop = None if ended is None else after(ended * HOUR)
    return Spell(user, units=units, began=after(began * HOUR), ended=stop, **values)  # type: ignore[arg-type]


def hours(by: str, asked: Span, *spells: Spell, seats: dict[str, int] | None = None) -> dict[str, float]:
    return {row.key: row.gpu_seconds / HOUR for row in usage.report(by, asked, spells, seats=seats).rows}


@pytest.mark.parametrize(
    ("began", "ended", "counted"),
    [
        pytest.param(-5, -1, None, id="over before"),
        pytest.param(-5, 0, None, id="over at the border"),
        pytest.param(-1, 1, 1, id="crosses the begin"),
        pytest.param(2, 3, 1, id="inside"),
        pytest.param(9, 12, 1, id="crosses the end"),
        pytest.param(-5, 20, 10, id="longer than the period"),
        pytest.param(10, 12, None, id="begins at the end"),
        pytest.param(7, None, 3, id="goes on"),
    ],
)
def test_a_lease_counts_by_what_lies_in_the_period(began: float, ended: float | None, counted: float | None):
    found = hours("user", span(0, 10), spell(began=began, ended=ended))
    assert found == ({} if counted is None else {"ana": counted})


def test_a_lease_that_goes_on_counts_up_to_now_and_not_to_the_end_of_the_period():
    assert hours("user", span(0, 24, now=5), spell(began=1, ended=None)) == {"ana": 4}


def test_several_gpus_count_each_and_a_cpu_lab_counts_none():
    two = spell(units=(GPU + "1", GPU + "2"))
    assert hours("user", span(0, 10), two, spell("bo", ())) == {"ana": 2, "bo": 0}
    assert hours("gpu", span(0, 10), two) == {GPU + "1": 1, GPU + "2": 1}


def test_a_person_counts_for_each_of_their_groups_but_once_in_the_total():
    both = spell(groups=("vision", "night"))
    found = usage.report("group", span(0, 10), [both, spell("bo")])
    assert {row.key: row.gpu_seconds / HOUR for row in found.rows} == {"vision": 1, "night": 1, "": 1}
    assert found.total.gpu_seconds == 2 * HOUR
    assert "two groups" in sheets.text(found)


@pytest.mark.parametrize(
    ("units", "seats", "counted"),
    [
        pytest.param((GPU + "1#0",), {GPU + "1": 4}, 0.25, id="a seat of four"),
        pytest.param((GPU + "1#0", GPU + "1#1", GPU + "1#2", GPU + "1#3"), {GPU + "1": 4}, 1, id="all four are one GPU"),
        pytest.param((GPU + "1#7",), {GPU + "1": 4}, 0.125, id="a seat that is no more: as many as its number shows"),
        pytest.param((GPU + "1#0",), {}, 0.5, id="not shared any more: two at least"),
        pytest.param(("MIG-1",), {}, 1, id="a MIG instance is a GPU of its own"),
        pytest.param((GPU + "1#x",), {}, 0.5, id="a name nobody understands"),
    ],
)
def test_seats_count_as_their_share(units: tuple[str, ...], seats: dict[str, int], counted: float):
    assert hours("user", span(0, 10), spell(units=units), seats=seats) == {"ana": counted}


def test_seats_of_one_gpu_are_summed_under_its_uuid():
    assert hours("gpu", span(0, 10), spell(units=(GPU + "1#0",)), spell("bo", (GPU + "1#1",)), seats={GPU + "1": 2}) == {
        GPU + "1": 1
    }


def test_idle_time_is_spread_over_the_lease_and_never_more_than_the_use():
    half = spell(ended=4, idle=2 * HOUR)
    row = usage.report("user", span(2, 10), [half]).total
    assert (row.gpu_seconds, row.idle_seconds, row.idle_part) == (2 * HOUR, HOUR, 0.5)
    assert usage.report("user", span(0, 10), [spell(idle=99 * HOUR)]).total.idle_seconds == HOUR


def test_waiting_counts_those_that_waited_where_their_turn_came():
    spells = [spell(waited=float(n), began=1, ended=2) for n in range(1, 21)] + [spell(), spell(waited=7, began=-1)]
    row = usage.report("user", span(0, 10), spells, [Waiting("bo", (), "gpu-1", 50.0)]).total
    assert row.as_json()["waited"] == {"count": 20, "median_seconds": 10, "p95_seconds": 19, "max_seconds": 20}
    assert row.waiting == (50.0,)
    past = usage.report("user", span(0, 10, now=20), spells, [Waiting("bo", (), "gpu-1", 50.0)]).total
    assert past.waiting == (), "who waits now did not wait in a period that is over"


def test_refusals_count_by_reason():
    found = usage.report(
        "user", span(0, 1), [], [], [Refusals("ana", (), "gpu-1", "denied", 3), Refusals("ana", (), "", "no_gpu_free", 2)]
    )
    assert (found.rows[0].refusals, dict(found.rows[0].refused)) == (5, {"denied": 3, "no_gpu_free": 2})
    assert {
        row.key: row.refusals for row in usage.report("gpu", span(0, 1), [], [], [Refusals("a", (), "", "denied", 1)]).rows
    } == {"": 1}


names = st.sampled_from(["ana", "bo", "cem"])
units = st.lists(st.sampled_from([GPU + "1", GPU + "2", GPU + "3#0", GPU + "3#1", "MIG-1"]), unique=True, max_size=4).map(tuple)
spells = st.builds(
    Spell,
    user=names,
    groups=st.lists(st.sampled_from(["vision", "night"]), unique=True).map(tuple),
    profile=st.sampled_from(["cpu", "gpu-1"]),
    units=units,
    began=st.integers(-50, 50).map(lambda n: T0 + timedelta(hours=n)),
    ended=st.none() | st.integers(51, 90).map(lambda n: T0 + timedelta(hours=n)),
    idle=st.floats(0, 1e6),
    waited=st.floats(0, 1e5),
)
refusals = st.builds(
    Refusals,
    user=names,
    groups=st.just(()),
    profile=st.just("gpu-1"),
    reason=st.sampled_from(["denied", "mount"]),
    count=st.integers(1, 9),
)
SEATS = {GPU + "3": 3}


def near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


@given(st.lists(spells, max_size=12), st.lists(refusals, max_size=5), st.sampled_from([by for by in BY if by != "group"]))
def test_the_rows_add_up_to_the_total(given_spells: list[Spell], given_refusals: list[Refusals], by: str):
    found = usage.report(by, span(0, 60, now=70), given_spells, [], given_refusals, SEATS)
    assert near(sum(row.gpu_seconds for row in found.rows), found.total.gpu_seconds)
    assert near(sum(row.idle_seconds for row in found.rows), found.total.idle_seconds)
    assert sum(row.refusals for row in found.rows) == found.total.refusals
    assert found.total.idle_seconds <= found.total.gpu_seconds + 1e-6
    if by != "gpu":
        assert sum(row.labs for row in found.rows) == found.total.labs


@given(st.lists(spells, max_size=12), st.integers(-20, 80), st.sampled_from(BY))
def test_a_period_cut_in_two_has_the_sums_of_the_whole(given_spells: list[Spell], cut: int, by: str):
    since, until, now = -30, 85, 88

    def sums(begin: float, end: float) -> tuple[Row, dict[str, float]]:
        found = usage.report(by, span(begin, end, now=now), given_spells, seats=SEATS)
        return found.total, {row.key: row.gpu_seconds for row in found.rows}

    (whole, by_key), (first, one), (second, other) = sums(since, until), sums(since, cut), sums(cut, until)
    assert near(whole.gpu_seconds, first.gpu_seconds + second.gpu_seconds)
    assert near(whole.idle_seconds, first.idle_seconds + second.idle_seconds)
    assert whole.waits == tuple(sorted(first.waits + second.waits))
    for key, seconds in by_key.items():
        assert near(seconds, one.get(key, 0.0) + other.get(key, 0.0))


@given(st.lists(spells, max_size=12), st.sampled_from([20, 47, 60, 24 * 30, 24 * 90]))
def test_the_picture_shows_what_the_total_says(given_spells: list[Spell], length: int):
    asked = span(-10, -10 + length, now=70)
    cuts = usage.slices(asked, given_spells, SEATS)
    total = usage.report("user", asked, given_spells, seats=SEATS).total
    assert len(cuts) <= 48
    assert near(sum(cut.gpu_seconds for cut in cuts), total.gpu_seconds)
    assert near(sum(cut.idle_seconds for cut in cuts), total.idle_seconds)
    assert (cuts[0].since, cuts[-1].until) == (asked.since, asked.until)


# --- as text


def test_csv_has_every_number_and_no_formula():
    found = usage.report("group", span(0, 10), [spell(groups=("=cmd|'/c calc'!A1",), waited=90.0)])
    head, row = csv.reader(sheets.as_csv(found).splitlines())
    told = dict(zip(head, row, strict=True))
    assert told["group"].startswith("'=")
    assert (told["gpu_hours"], told["waited"], told["waited_median_s"], told["still_waiting_max_s"]) == ("1", "1", "90", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "-"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m 59s"), (3600, "1h"), (90_000, "1d 1h")]
)
def test_lengths_of_time_read_as_a_person_says_them(seconds: float | None, words: str):
    assert sheets.length(seconds) == words


@pytest.mark.parametrize(
    ("since", "until", "begin"),
    [
        ("7d", "", -168),
        ("36h", "12h", -36),
        ("2026-01-04", "", -32),
        ("2026-01-05T07:00:00+01:00", "1h", -2),
        ("2026-01-05T06:00Z", "", -2),
    ],
)
def test_periods_are_read(since: str, until: str, begin: float):
    assert periods.span(since, until, T0).since == after(begin * HOUR)


@pytest.mark.parametrize("words", ["", "7", "week", "1d ago", "2026-13-01", "-1d", "9" * 400 + "d", "\x1b[31m"])
def test_what_is_no_time_is_refused_with_the_rule(words: str):
    with pytest.raises(RequestError, match="such as 12h or 7d") as refused:
        periods.span(words, "", T0)
    assert refused.value.message.isascii()


@pytest.mark.parametrize(("since", "until"), [("1d", "1d"), ("1d", "2d"), ("2026-01-06", "")])
def test_a_period_ends_after_it_begins(since: str, until: str):
    with pytest.raises(RequestError, match="ends before it begins"):
        periods.span(since, until, T0)

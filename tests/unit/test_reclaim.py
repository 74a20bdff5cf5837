"""When a lab is noticed, warned and stopped: a truth table of signals, the steps in their order, and what must never happen."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import reclaim
from spawner.grants import ReclaimRules
from spawner.model import LeaseState
from spawner.reclaim import LONGEST_GAP, Decision, Signals, Step
from spawner.records import Watch
from tests.unit.values import T0, after, make_gpu, make_lease

MINUTE = timedelta(minutes=1)
RULES = ReclaimRules(
    notice=10 * MINUTE, warning=20 * MINUTE, grace=5 * MINUTE, extend=60 * MINUTE, extensions=2, life_warning=15 * MINUTE
)
LEASE = make_lease(gpus=(make_gpu(0).uuid,))
IDLE = Signals(T0, MINUTE, gpu_percent=0, kernels_busy=0, cpu_percent=1, moved=100)


def looks(lease=LEASE, signals=IDLE, watch=None, rules=RULES, minutes=60, start=0, every=1):
    """Look once a minute, and yield minute and decision."""
    watch = watch or Watch(lease.id, seen=after(60 * (start - every)))
    for minute in range(start, start + minutes, every):
        found = reclaim.decide(lease, dataclasses.replace(signals, at=after(60 * minute)), watch, rules)
        watch = found.watch
        yield minute, found
        if found.step is Step.STOP:
            return


def steps(**more) -> list[tuple[int, Step]]:
    return [(minute, found.step) for minute, found in looks(**more) if found.step is not Step.KEEP]


def last(**more) -> Decision:
    return list(looks(**more))[-1][1]


def test_an_unused_lab_is_noticed_then_warned_then_stopped():
    assert steps() == [(10, Step.NOTICE), (20, Step.WARN), (25, Step.STOP)]
    stop = last()
    assert stop.why == "The lab was stopped because it had not used its 1 GPU for 25 minutes."
    assert stop.watch.cause == "stop"
    assert last(minutes=21).watch.stop_at == after(60 * 25), "the warning names the moment"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gpu_percent": 6}, "its GPUs are used"),
        ({"kernels_busy": 1}, "1 of its kernels run something"),
        ({"cpu_percent": 11}, "its processes compute"),
        ({"moved": 300_000}, "its processes move data"),
    ],
)
def test_each_kind_of_work_alone_protects_a_lab(change, why):
    signals = dataclasses.replace(IDLE, **change)
    assert steps(signals=signals, minutes=600) == []
    assert why in last(signals=signals).why
    assert last(signals=signals).watch.idle_since is None
    # ... also where nothing else is known.
    blind = Signals(T0, MINUTE, **change)
    assert steps(signals=blind, minutes=600) == []


VALUES = {
    "gpu_percent": (None, 0, 5, 6),
    "kernels_busy": (None, 0, 1),
    "cpu_percent": (None, 0, 10, 11),
    "moved": (None, 0, reclaim.COPYING, reclaim.COPYING + 1),
}


@pytest.mark.parametrize("values", list(itertools.product(*VALUES.values())))
def test_a_lab_is_idle_only_where_every_signal_says_so(values):
    signals = dataclasses.replace(IDLE, **dict(zip(VALUES, values, strict=True)))
    works = values[0] == 6 or values[1] == 1 or values[2] == 11 or values[3] == reclaim.COPYING + 1
    idle = not works and None not in values
    warned = Watch(LEASE.id, idle_since=T0, warned=T0, stop_at=after(300), cause="idle", text="x", seen=after(240))
    found = reclaim.decide(LEASE, dataclasses.replace(signals, at=after(300)), warned, RULES)
    assert found.step is (Step.STOP if idle else Step.CLEAR if works else Step.KEEP)
    assert (found.idle == MINUTE) == idle


def test_a_cell_that_was_run_lately_is_a_person_who_thinks():
    used = dataclasses.replace(IDLE, used=after(60 * 15))
    warned = last(minutes=21).watch
    found = reclaim.decide(LEASE, dataclasses.replace(used, at=after(60 * 21), used=after(60 * 20.5)), warned, RULES)
    assert found.step is Step.CLEAR
    assert found.watch.idle_since == after(60 * 20.5)
    assert steps(signals=used, minutes=60) != steps()


def test_a_last_use_in_the_future_keeps_a_lab_and_breaks_nothing():
    assert steps(signals=dataclasses.replace(IDLE, used=after(1e6)), minutes=100) == []


@pytest.mark.parametrize(
    ("lease", "rules"),
    [
        (make_lease(gpus=()), RULES),
        (dataclasses.replace(LEASE, state=LeaseState.STARTING), RULES),
        (dataclasses.replace(LEASE, state=LeaseState.DRAINING), RULES),
        (LEASE, dataclasses.replace(RULES, mode="off")),
    ],
)
def test_who_holds_no_gpu_or_does_not_run_is_never_reclaimed(lease, rules):
    assert steps(lease=lease, rules=rules, minutes=600) == []


def test_an_extension_moves_the_stop_and_is_bounded():
    warned = last(minutes=21).watch
    outcome = reclaim.extended(LEASE, warned, RULES, after(60 * 21))
    assert not isinstance(outcome, str)
    fresh, ends = outcome
    assert (fresh.extensions, fresh.safe_until, fresh.text, ends) == (1, after(60 * 81), "", None)
    # Warned again in time before the extension ends, and stopped at its end.
    assert steps(watch=fresh, start=21, minutes=100) == [(76, Step.WARN), (81, Step.STOP)]
    again = reclaim.extended(LEASE, fresh, RULES, after(60 * 22))
    assert not isinstance(again, str)
    refused = reclaim.extended(LEASE, again[0], RULES, after(60 * 23))
    assert refused == "A lab may be extended 2 times (reclaim.extensions); this one has been."


def test_what_is_being_stopped_is_not_extended_and_is_asked_to_stop_until_it_does():
    stopping = last().watch
    assert "does not run any more" in str(reclaim.extended(LEASE, stopping, RULES, after(1e4)))
    found = reclaim.decide(LEASE, dataclasses.replace(IDLE, at=after(1e4), cpu_percent=99), stopping, RULES)
    assert (found.step, found.why) == (Step.STOP, stopping.text)


def test_the_end_of_a_life_is_warned_of_whatever_the_lab_does():
    lease = dataclasses.replace(LEASE, ends=after(60 * 30))
    working = dataclasses.replace(IDLE, gpu_percent=99)
    assert steps(lease=lease, signals=working) == [(15, Step.WARN), (30, Step.STOP)]
    # A lab that hides its signals does not live longer.
    assert steps(lease=lease, signals=Signals(T0, MINUTE)) == [(15, Step.WARN), (30, Step.STOP)]


def test_an_end_that_nobody_was_there_to_warn_of_is_warned_of_first():
    lease = dataclasses.replace(LEASE, ends=T0)
    working = dataclasses.replace(IDLE, gpu_percent=99)
    assert steps(lease=lease, signals=working, start=100) == [(100, Step.WARN), (105, Step.STOP)]


def test_a_life_is_extended_by_the_rules_and_not_further():
    lease = dataclasses.replace(LEASE, ends=after(60 * 30))
    working = dataclasses.replace(IDLE, gpu_percent=99)
    warned = last(lease=lease, signals=working, minutes=20).watch
    assert warned.cause == "life"
    outcome = reclaim.extended(lease, warned, RULES, after(60 * 20))
    assert not isinstance(outcome, str)
    fresh, ends = outcome
    assert ends == after(60 * 90)
    longer = dataclasses.replace(lease, ends=ends)
    assert steps(lease=longer, signals=working, watch=fresh, start=20, minutes=80) == [(75, Step.WARN), (90, Step.STOP)]
    # Where somebody else moved the end, the warning goes.
    assert steps(lease=longer, signals=working, watch=warned, start=20, minutes=5) == [(20, Step.CLEAR)]


@pytest.mark.parametrize("granted", [None, 60 * 30])
def test_used_up_hours_are_extended_by_what_the_button_says_and_not_further(granted):
    # Of a lab that was granted what was left of them, or of one of several labs that use them up together.
    lease = dataclasses.replace(LEASE, ends=after(granted) if granted else None)
    working = dataclasses.replace(IDLE, gpu_percent=99)
    watch, found, presses = Watch(LEASE.id, seen=after(-60)), [], 0
    for minute in range(400):
        now = after(60 * minute)
        # From the 30th minute on nothing is left of them, at each look.
        decided = reclaim.decide(lease, dataclasses.replace(working, at=now), watch, RULES, max(after(60 * 30), now))
        watch = decided.watch
        if decided.step is Step.KEEP:
            continue
        found.append((minute, decided.step))
        if decided.step is Step.STOP:
            break
        outcome = reclaim.extended(lease, watch, RULES, now)
        if not isinstance(outcome, str):
            presses += 1
            watch, ends = outcome
            lease = dataclasses.replace(lease, ends=ends or lease.ends)
    # Each press gives its hour: from the 15th minute to the 75th, and from there to the 135th.
    assert found == [(15, Step.WARN), (60, Step.WARN), (120, Step.WARN), (135, Step.STOP)]
    assert presses == RULES.extensions
    assert "used up their GPU-hours" in watch.text


def test_what_somebody_else_wrote_to_the_holder_stays():
    watch = Watch(LEASE.id, cause="message", text="Please stop by noon.", seen=after(-60))
    found = last(watch=watch, minutes=600)
    assert (found.step, found.watch.text) == (Step.KEEP, watch.text)
    assert found.watch.idle_since is not None


@pytest.mark.parametrize("gap", [timedelta(days=1), timedelta(minutes=6), timedelta(hours=-5)])
@pytest.mark.parametrize("when", [5, 15, 22])
def test_time_in_which_nobody_looked_and_a_clock_that_jumps_bring_nobody_nearer_to_a_stop(gap, when):
    before = last(minutes=when).watch
    at = after(60 * (when - 1)) + gap
    # A reclaimer that was just started, or one that measured a minute while the clock jumped.
    for watched in (None, MINUTE):
        found = reclaim.decide(LEASE, dataclasses.replace(IDLE, at=at, watched=watched), before, RULES)
        told = (found.watch.noticed is None, found.watch.warned is None)
        assert told == (before.noticed is None, before.warned is None)
        assert found.step is Step.KEEP
        counted = watched or timedelta()
        assert found.watch.idle_since is not None
        assert before.idle_since is not None
        assert at - found.watch.idle_since == after(60 * (when - 1)) - before.idle_since + counted


def test_two_watchers_at_once_count_time_once():
    watch, minutes = Watch(LEASE.id, seen=T0), []
    for half in range(1, 80):
        # Both look once a minute, half a minute apart.
        found = reclaim.decide(LEASE, dataclasses.replace(IDLE, at=after(30 * half)), watch, RULES)
        watch = found.watch
        if found.step is not Step.KEEP:
            minutes.append((half / 2, found.step))
        if found.step is Step.STOP:
            break
    assert minutes == [(10.5, Step.NOTICE), (20.5, Step.WARN), (25.5, Step.STOP)]


# --- what must never happen, whatever comes -------------------------------------------------------------------------

SIGNAL = st.fixed_dictionaries(
    {
        "gpu_percent": st.sampled_from([0.0, 0.0, 0.0, 50.0, None]),
        "kernels_busy": st.sampled_from([0, 0, 0, 2, None]),
        "cpu_percent": st.sampled_from([0.0, 0.0, 0.0, 80.0, None]),
        "moved": st.sampled_from([0.0, 0.0, 0.0, 1e9, None]),
    }
)
ROUND = st.tuples(
    st.one_of(st.just({"gpu_percent": 0.0, "kernels_busy": 0, "cpu_percent": 0.0, "moved": 0.0}), SIGNAL),
    st.sampled_from([15, 60, 60, 240, 400]),  # seconds that passed
    st.sampled_from([0, 0, 0, 0, 3600, -3600, 86_400]),  # seconds that the clock was set by
    st.sampled_from([False, False, False, False, True]),  # the reclaimer was restarted
    st.sampled_from(["", "", "", "", "extend"]),
)


@given(st.lists(ROUND, max_size=120), st.sampled_from([None, 1800, 7200]))
def test_nobody_is_stopped_without_a_warning_whose_grace_has_passed_under_our_eyes(rounds, life):
    clock, watch, lease = T0, Watch(LEASE.id), LEASE
    if life:
        lease = dataclasses.replace(LEASE, ends=after(life))
    idle_seen = warned_seen = timedelta()
    warned_of = ""
    for values, seconds, jump, restarted, press in rounds:
        clock += timedelta(seconds=seconds + jump)
        watched = None if restarted else timedelta(seconds=seconds)
        if press:
            outcome = reclaim.extended(lease, watch, RULES, clock)
            if not isinstance(outcome, str):
                watch, ends = outcome
                lease = dataclasses.replace(lease, ends=ends or lease.ends)
                warned_of, warned_seen = "", timedelta()
        signals = Signals(clock, watched, **values)
        works, blind = reclaim.busy(signals, RULES), reclaim.unknown(signals)
        counted = watched if watched is not None and watched <= LONGEST_GAP else timedelta()
        if works:
            idle_seen = timedelta()
        elif not blind:
            idle_seen += counted
        if warned_of == "life" or not (works or blind):
            warned_seen += counted
        found = reclaim.decide(lease, signals, watch, RULES)
        watch = found.watch
        if found.step is Step.STOP:
            assert warned_of
            assert warned_seen >= RULES.grace
            return
        if found.step in (Step.NOTICE, Step.WARN) and watch.cause == "idle":
            assert not works
            assert not blind
            assert idle_seen >= (RULES.warning if found.step is Step.WARN else RULES.notice)
        if found.step is Step.WARN:
            assert watch.stop_at is not None
            assert watch.stop_at >= clock + RULES.grace
            warned_of, warned_seen = watch.cause, timedelta()
        if found.step is Step.CLEAR:
            warned_of = ""
        if works:
            assert watch.idle_since is None
            assert watch.cause != "idle"
            assert found.idle == timedelta()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(10, "less than a minute"), (60, "1 minute"), (150, "2 minutes"), (7300, "2 hours"), (200_000, "2 days")],
)
def test_lengths_are_said_as_people_do(seconds, text):
    assert reclaim.spoken(timedelta(seconds=seconds)) == text

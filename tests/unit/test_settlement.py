from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.model import LeaseState, Presence
from spawner.settlement import Action, Patience, decide, settle, settle_all
from tests.unit.values import T0, after, make_lease

PATIENCE = Patience(start=timedelta(seconds=100), flight=timedelta(seconds=100), stop=timedelta(seconds=30))
S, P, A = LeaseState, Presence, Action


@pytest.mark.parametrize(
    ("state", "presence", "age", "in_flight", "action"),
    [
        pytest.param(S.STARTING, P.ABSENT, 5, True, A.KEEP, id="young-start-not-there-yet"),
        pytest.param(S.STARTING, P.CREATED, 5, False, A.KEEP, id="young-start-created"),
        pytest.param(S.STARTING, P.RUNNING, 5, False, A.KEEP, id="young-start-running"),
        pytest.param(S.STARTING, P.RUNNING, 101, False, A.DRAIN, id="old-start-nobody-bound"),
        pytest.param(S.STARTING, P.ABSENT, 101, True, A.DRAIN, id="old-start-absent"),
        pytest.param(S.BOUND, P.RUNNING, 1e6, False, A.KEEP, id="running-lab-however-old"),
        pytest.param(S.BOUND, P.STOPPED, 5, False, A.DRAIN, id="ended-lab"),
        pytest.param(S.BOUND, P.ABSENT, 5, False, A.DRAIN, id="vanished-lab"),
        pytest.param(S.DRAINING, P.RUNNING, 5, False, A.REMOVE, id="stop-not-done-yet"),
        pytest.param(S.DRAINING, P.CREATED, 5, False, A.REMOVE, id="late-container"),
        pytest.param(S.DRAINING, P.ABSENT, 5, False, A.RELEASE, id="gone"),
        pytest.param(S.DRAINING, P.ABSENT, 5, True, A.NOTE_ABSENT, id="in-flight-first-absent"),
        pytest.param(S.RELEASED, P.RUNNING, 5, False, A.KEEP, id="released-is-final"),
    ],
)
def test_rule(state: LeaseState, presence: Presence, age: float, in_flight: bool, action: Action):
    assert decide(make_lease(state=state, in_flight=in_flight), presence, after(age), PATIENCE) is action


def test_a_lab_that_was_never_handed_over_needs_no_time_to_save():
    assert decide(make_lease(state=S.DRAINING, drained=T0), P.RUNNING, after(1), PATIENCE) is A.REMOVE


def test_a_start_has_its_time_however_long_its_gpus_were_set_aside():
    begun = make_lease(state=S.STARTING, starting=after(90))
    assert decide(begun, P.RUNNING, after(189), PATIENCE) is A.KEEP
    assert decide(begun, P.RUNNING, after(191), PATIENCE) is A.DRAIN


def test_a_lab_that_was_asked_to_end_has_its_time():
    lease = make_lease(state=S.DRAINING, bound=T0, drained=T0)
    assert decide(lease, P.RUNNING, after(29), PATIENCE) is A.KEEP
    assert decide(lease, P.RUNNING, after(31), PATIENCE) is A.REMOVE
    assert decide(lease, P.STOPPED, after(1), PATIENCE) is A.REMOVE


def test_a_clock_that_was_set_back_holds_no_gpu_for_long():
    assert decide(make_lease(state=S.STARTING), P.RUNNING, after(-101), PATIENCE) is A.DRAIN
    assert decide(make_lease(state=S.STARTING), P.RUNNING, after(-99), PATIENCE) is A.KEEP
    assert decide(make_lease(state=S.DRAINING, bound=T0, drained=T0), P.RUNNING, after(-31), PATIENCE) is A.REMOVE
    on_its_way = make_lease(state=S.DRAINING, in_flight=True, absent_since=T0)
    assert decide(on_its_way, P.ABSENT, after(-101), PATIENCE) is A.NOTE_ABSENT
    assert decide(on_its_way, P.ABSENT, after(-99), PATIENCE) is A.KEEP
    assert decide(make_lease(state=S.BOUND), P.RUNNING, after(-1e6), PATIENCE) is A.KEEP


def test_in_flight_creation_needs_a_second_absent_after_patience():
    lease = make_lease(state=S.DRAINING, in_flight=True, absent_since=T0)
    assert decide(lease, P.ABSENT, after(99), PATIENCE) is A.KEEP
    assert decide(lease, P.ABSENT, after(101), PATIENCE) is A.RELEASE


@given(
    st.sampled_from(list(LeaseState)),
    st.booleans(),
    st.floats(0, 1e7),
    st.none() | st.floats(0, 1e7),
)
def test_unknown_never_frees_and_never_ends_anything(state: LeaseState, in_flight: bool, age: float, absent: float | None):
    lease = make_lease(state=state, in_flight=in_flight, absent_since=None if absent is None else after(absent))
    # What was heard before an engine stood still proves nothing after it: it may go on with what it was asked before.
    forgets = absent is not None and state not in (S.RELEASED, S.CLAIMED)
    assert decide(lease, P.UNKNOWN, after(age), PATIENCE) is (A.FORGET_ABSENT if forgets else A.KEEP)


@given(st.sampled_from(list(LeaseState)), st.sampled_from(list(Presence)), st.booleans(), st.floats(0, 1e7))
def test_only_absent_releases(state: LeaseState, presence: Presence, in_flight: bool, age: float):
    lease = make_lease(state=state, in_flight=in_flight)
    if decide(lease, presence, after(age), PATIENCE) is A.RELEASE:
        assert presence is P.ABSENT
        assert state is S.DRAINING


class OneLease:
    """A ledger of one lease and an engine of one container, both in memory."""

    def __init__(self, one, presence: Presence) -> None:
        self.one = one
        self.now = presence
        self.steps: list[str] = []

    def lease(self, lease_id: str):
        return self.one

    def _set(self, step: str, **changes) -> None:
        values = {name: getattr(self.one, name) for name in self.one.__slots__}
        self.one = type(self.one)(**{**values, **changes})
        self.steps.append(step)

    def answered(self, lease_id: str, container: str) -> None:
        self._set("answered", in_flight=False)

    def drain(self, lease_id: str, now) -> None:
        self._set("drain", state=S.DRAINING, drained=now)

    def note_absent(self, lease_id: str, now) -> None:
        self._set("note", absent_since=now)

    def release(self, lease_id: str, now, reason: str) -> None:
        self._set("release", state=S.RELEASED)

    def presence(self, lease_id: str) -> Presence:
        return self.now

    def remove(self, lease_id: str, stop_seconds: int) -> None:
        self.steps.append("remove")
        self.now = P.ABSENT


def run(world: OneLease) -> Action:
    return settle(world.one, world, world, lambda: after(5), PATIENCE)


def test_stop_that_was_asked_ends_in_release():
    world = OneLease(make_lease(state=S.DRAINING), P.RUNNING)
    assert run(world) is A.RELEASE
    assert world.steps == ["remove", "release"]


def test_late_container_is_the_creation_that_was_on_its_way():
    world = OneLease(make_lease(state=S.DRAINING, in_flight=True), P.CREATED)
    assert run(world) is A.RELEASE
    assert world.steps == ["answered", "remove", "release"]


def test_ended_lab_is_left_one_round_for_its_reason_to_be_read():
    world = OneLease(make_lease(state=S.BOUND), P.STOPPED)
    run(world)
    assert world.steps == ["drain"]
    run(world)
    assert world.steps == ["drain", "remove", "release"]


def test_settling_twice_changes_nothing_more():
    world = OneLease(make_lease(state=S.BOUND), P.ABSENT)
    assert run(world) is A.RELEASE
    before = list(world.steps)
    assert run(world) is A.KEEP
    assert world.steps == before


def test_one_failing_lease_does_not_stop_the_others(caplog: pytest.LogCaptureFixture):
    class Failing(OneLease):
        def presence(self, lease_id: str) -> Presence:
            if lease_id == "bad":
                raise RuntimeError("boom")
            return super().presence(lease_id)

    world = Failing(make_lease(state=S.DRAINING, id="good"), P.ABSENT)
    done = settle_all([make_lease(id="bad"), world.one], world, world, lambda: after(5), PATIENCE)
    assert done == {"good": A.RELEASE}
    assert "bad" in caplog.text


def test_an_absent_heard_before_the_engine_stood_still_counts_no_more():
    # The engine was asked to create it, stood still, and goes on: what travels may arrive only now.
    world = OneLease(make_lease(state=S.DRAINING, in_flight=True, absent_since=after(-500)), P.UNKNOWN)
    assert run(world) is A.FORGET_ABSENT
    world.now = P.ABSENT
    assert run(world) is A.NOTE_ABSENT
    assert world.steps == ["note", "note"]
    assert world.one.absent_since == after(5)

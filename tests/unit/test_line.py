"""Truth tables of the waiting line: the order, whose turn it is, and who may pass whom."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from spawner.errors import DeniedError
from spawner.grants import LineRules, ReclaimRules
from spawner.line import LOOK_BEHIND, Plan, earliest, fair_shares, order, plan
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from spawner.records import Grant, Ticket
from tests.unit.values import T0, after, make_gpu, make_lease

NOW = after(3600)
RECLAIM = ReclaimRules(extensions=0)
RULES = LineRules(claim=timedelta(minutes=5), overdue=timedelta(days=1))
HOUR = 3600


def ticket(name: str, gpus: int = 1, *, at: float = 0, models: tuple[str, ...] = (), life: float | None = None, **more) -> Ticket:
    profile = f"life-{life:g}" if life is not None else "p"
    return Ticket(
        name, Holder(more.pop("user", name)), GpuRequest(profile, gpus, models), (), more.pop("priority", 1), after(at), **more
    )


def admit_by_profile(one: Ticket, given) -> Grant:
    """A profile `life-<seconds>` has that life; `denied` is refused."""
    if one.request.profile == "denied":
        raise DeniedError("You may not.")
    life = one.request.profile.partition("life-")[2]
    return Grant(one.request, life=timedelta(seconds=float(life)) if life else None)


def run(
    tickets, gpus, leases=(), now: datetime = NOW, rules: LineRules = RULES, shares=None, admit=admit_by_profile, reclaim=RECLAIM
) -> Plan:
    return plan(tickets, gpus, leases, shares or {}, now, rules, reclaim, admit, packed)


def given(*args, **named) -> dict[str, int]:
    return {turn.ticket.id: len(turn.gpus) for turn in run(*args, **named).turns}


def held(*gpus: Gpu, ends: float | None = None, **more) -> Lease:
    return make_lease("someone", tuple(gpu.uuid for gpu in gpus), ends=None if ends is None else after(ends), **more)


GPUS = [make_gpu(i) for i in range(4)]
L4 = [make_gpu(i) for i in range(2)]
A100 = [make_gpu(i, model="A100") for i in range(10, 12)]


# --- the order


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [
        pytest.param(ticket("a", at=0), ticket("b", at=1), {}, id="age"),
        pytest.param(ticket("a", at=9, priority=2), ticket("b", at=1, priority=1), {}, id="class-before-age"),
        pytest.param(ticket("a", at=9, priority=1), ticket("b", at=1, priority=0), {}, id="low-class-last"),
        pytest.param(ticket("a", at=9), ticket("b", at=1), {"a": 10.0, "b": 11.0}, id="share-before-age"),
        pytest.param(ticket("a", at=9), ticket("b", at=1), {"b": 0.1}, id="nobody-used-less-than-a-newcomer"),
        pytest.param(ticket("a", at=9, priority=2), ticket("b", priority=1), {"a": 1e9}, id="class-before-share"),
        pytest.param(ticket("a", at=-90000, priority=0), ticket("b", priority=2), {"a": 1e9}, id="overdue-before-class"),
        pytest.param(ticket("a", at=-90002), ticket("b", at=-90001, priority=2), {"a": 1e9}, id="overdue-by-age-alone"),
        pytest.param(ticket("a", at=9, ahead=1), ticket("b", at=-90000, priority=2), {"a": 1e9}, id="moved-before-overdue"),
        pytest.param(ticket("a", at=9, priority=0), ticket("b", priority=2, ahead=-1), {}, id="moved-behind-everyone"),
        pytest.param(ticket("a"), ticket("b"), {}, id="same-moment-by-id"),
    ],
)
def test_order(first: Ticket, second: Ticket, shares: dict[str, float]):
    for tickets in ([first, second], [second, first]):
        assert [one.id for one in order(tickets, shares, NOW, RULES)] == ["a", "b"]


def test_exactly_as_old_as_the_limit_is_not_overdue():
    old, important = ticket("old", at=-(86400 - HOUR)), ticket("important", priority=2)
    assert [one.id for one in order([old, important], {}, NOW, RULES)] == ["important", "old"]
    later = NOW + timedelta(seconds=1)
    assert [one.id for one in order([old, important], {}, later, RULES)] == ["old", "important"]


def test_share_counts_what_goes_on():
    running = [make_lease("ana", ("x", "y"), created=after(0)), make_lease("bo", (), created=after(0))]
    shares = fair_shares({"ana": 100.0}, running, NOW, timedelta(days=7))
    assert shares["ana"] == pytest.approx(100 + 2 * HOUR, rel=0.01)
    assert shares["bo"] == 0


# --- whose turn it is


def test_everyone_who_fits_has_their_turn_in_order():
    assert given([ticket("a", 2), ticket("b", 1, at=1), ticket("c", 1, at=2), ticket("d", 1, at=3)], GPUS) == {
        "a": 2,
        "b": 1,
        "c": 1,
    }


def test_no_gpu_is_given_twice():
    turns = run([ticket(str(n), 1, at=n) for n in range(9)], GPUS, [held(GPUS[0])]).turns
    uuids = [uuid for turn in turns for uuid in turn.gpus]
    assert sorted(uuids) == sorted(gpu.uuid for gpu in GPUS[1:])


def test_an_empty_line_gives_nothing():
    assert run([], GPUS) == Plan((), (), {})


@pytest.mark.parametrize(
    ("small", "leases", "passes"),
    [
        pytest.param(ticket("small", life=100, at=9), [held(*GPUS[:3], ends=9000)], True, id="ends-before-the-head-could-start"),
        pytest.param(ticket("small", life=6000, at=9), [held(*GPUS[:3], ends=9000)], False, id="would-delay-the-head"),
        pytest.param(ticket("small", at=9), [held(*GPUS[:3], ends=9000)], False, id="own-end-unknown"),
        pytest.param(ticket("small", life=100, at=9), [held(*GPUS[:3])], False, id="ends-of-the-others-unknown"),
        pytest.param(ticket("small", life=100, at=9), [held(*GPUS[:2], ends=9000), held(GPUS[2])], False, id="one-end-unknown"),
        pytest.param(
            ticket("small", life=5200, at=9), [held(*GPUS[:3], ends=9000)], False, id="life-begins-when-the-claim-is-used"
        ),
        pytest.param(
            ticket("small", life=100, at=9), [held(*GPUS[:3], state=LeaseState.DRAINING)], False, id="the-others-end-now"
        ),
        pytest.param(ticket("small", life=100, at=9), [held(*GPUS[:3], ends=10)], False, id="the-others-are-overdue"),
    ],
)
def test_who_may_pass_the_head(small: Ticket, leases: list[Lease], passes: bool):
    head = ticket("head", 4)
    assert given([head, small], GPUS, leases) == ({"small": 1} if passes else {})


THREE = [held(*GPUS[:3], ends=3600 + 8 * HOUR)]
EACH = [held(gpu, ends=3600 + 8 * HOUR) for gpu in GPUS[:3]]
ENDING = [held(*GPUS[:2], state=LeaseState.DRAINING), held(GPUS[2], ends=9000)]


@pytest.mark.parametrize(
    ("wanted", "leases", "life", "reclaim", "passes"),
    [
        pytest.param(4, THREE, HOUR, ReclaimRules(extensions=1), True, id="extended-it-ends-in-time"),
        pytest.param(4, THREE, HOUR, ReclaimRules(extensions=2), False, id="extended-twice-it-does-not"),
        pytest.param(4, THREE, HOUR, ReclaimRules(extensions=0), True, id="no-extensions"),
        pytest.param(4, THREE, 60, ReclaimRules(mode="off"), False, id="nobody-ends-a-life"),
        pytest.param(4, THREE, 60, ReclaimRules(mode="dry-run"), False, id="nobody-ends-a-life-in-a-dry-run"),
        # The head takes two of the four: one beside the small one would be left if none of the others is extended.
        pytest.param(2, EACH, None, ReclaimRules(extensions=0), True, id="enough-others-end-together"),
        pytest.param(2, EACH, None, ReclaimRules(extensions=1), False, id="the-others-may-be-extended"),
        pytest.param(2, EACH, None, ReclaimRules(mode="off"), False, id="nobody-ends-the-others"),
        pytest.param(2, ENDING, None, ReclaimRules(mode="off"), True, id="the-others-end-already"),
        pytest.param(
            4, [held(*GPUS[:3], ends=3600 + 1500)], 60, ReclaimRules(extensions=0), False, id="nobody-is-stopped-without-grace"
        ),
    ],
)
def test_what_can_be_extended_is_counted_with_its_extensions(wanted, leases, life, reclaim, passes):
    head, small = ticket("head", wanted, models=("L4",)), ticket("small", life=life, at=9)
    assert given([head, small], GPUS, leases, reclaim=reclaim) == ({"small": 1} if passes else {})


def test_spare_gpus_of_another_node_may_be_taken_for_ever():
    other = [make_gpu(i, node="n2") for i in range(10, 12)]
    head, small = ticket("head", 4), ticket("small", at=9)
    for reclaim in (ReclaimRules(), ReclaimRules(mode="off")):
        assert given([head, small], [*GPUS, *other], [held(*GPUS[:1], ends=9000)], reclaim=reclaim) == {"small": 1}


def test_another_model_is_free_for_those_behind():
    head, other = ticket("head", 2, models=("A100",)), ticket("other", models=("L4",), at=9)
    assert given([head, other], [*L4, *A100], [held(A100[0])]) == {"other": 1}


def test_those_behind_take_what_the_head_cannot_use():
    head, small = ticket("head", 2, models=("A100",)), ticket("small", at=9)
    (turn,) = run([head, small], [*L4, *A100], [held(A100[0])]).turns
    assert turn.gpus[0] in {gpu.uuid for gpu in L4}


def test_the_first_for_another_model_is_not_passed_either():
    # A line for A100 that never ends must not let small requests for L4 pass a big one for ever.
    tickets = [ticket("a100", models=("A100",)), ticket("big", 2, models=("L4",), at=1), ticket("small", models=("L4",), at=2)]
    assert given(tickets, [*L4, *A100], [held(*A100), held(L4[0])]) == {}
    told = run(tickets, [*L4, *A100], [held(*A100), held(L4[0])]).why
    assert "first in line" in told["a100"]
    assert "first in line for such GPUs" in told["big"]
    assert "number 3 in line" in told["small"]


def test_a_ticket_far_behind_others_for_another_model_has_its_turn():
    many = [ticket(f"{n:04}", models=("A100",), at=n) for n in range(3 * LOOK_BEHIND)]
    assert given([*many, ticket("last", models=("L4",), at=1000)], [*L4, *A100], [held(*A100)]) == {"last": 1}


def test_nothing_passes_an_overdue_head():
    leases = [held(*GPUS[:3], ends=9000)]
    small = ticket("small", life=100, at=9)
    assert given([ticket("head", 4, at=-90000), small], GPUS, leases) == {}
    assert given([ticket("head", 4, at=-80000), small], GPUS, leases) == {"small": 1}


@pytest.mark.parametrize(
    "blocked",
    [
        pytest.param(ticket("blocked", 4, held_back_until=NOW + timedelta(seconds=1)), id="held-back"),
        pytest.param(Ticket("blocked", Holder("x"), GpuRequest("denied", 4), (), 1, T0), id="not-admitted"),
        pytest.param(ticket("blocked", 5), id="too-few-in-circulation"),
        pytest.param(ticket("blocked", 1, models=("H100",)), id="model-out-of-circulation"),
    ],
)
def test_who_cannot_go_blocks_nobody(blocked: Ticket):
    told = run([blocked, ticket("small", at=9)], GPUS, [held(*GPUS[:3])])
    assert {turn.ticket.id for turn in told.turns} == {"small"}
    assert told.why["blocked"]
    assert told.order[0].id == "blocked"


def test_held_back_until_now_may_go():
    assert given([ticket("a", held_back_until=NOW)], GPUS) == {"a": 1}


def test_policy_sees_the_turns_given_before():
    def one_each(one: Ticket, given_already) -> Grant:
        if any(lease.holder.user == one.holder.user for lease in given_already):
            raise DeniedError("One at a time.")
        return Grant(one.request)

    tickets = [ticket("a", user="ana"), ticket("b", user="ana", at=1), ticket("c", user="bo", at=2)]
    assert given(tickets, GPUS, admit=one_each) == {"a": 1, "c": 1}


def test_seats_and_whole_gpus_do_not_stand_in_each_others_way():
    seats = [
        Gpu(f"{make_gpu(9).uuid}#{n}", "n1", 9, "L4", 12_000, seats=2) for n in range(2)
    ]  # fmt: skip
    seat = Ticket("seat", Holder("x"), GpuRequest("p", 1, (), 0, "shared"), (), 1, after(9))
    assert given([ticket("whole", 4), seat], [*GPUS, *seats], [held(GPUS[0])]) == {"seat": 1}


def test_a_long_line_is_looked_at_quickly_where_nothing_is_free():
    gpus = [make_gpu(n, node=f"n{n // 8}") for n in range(1024)]
    leases = [held(gpu, id=f"{n:032x}") for n, gpu in enumerate(gpus)]
    asked: list[str] = []

    def counting(one: Ticket, given_already) -> Grant:
        asked.append(one.id)
        return Grant(one.request)

    told = run([ticket(f"{n:05}", 1 + n % 4, at=n) for n in range(5000)], gpus, leases, admit=counting)
    assert told.turns == ()
    assert len(told.why) == 5000
    assert len(asked) <= LOOK_BEHIND


# --- when it will be


@pytest.mark.parametrize(
    ("wanted", "leases", "moment"),
    [
        pytest.param(1, [], NOW, id="free-now"),
        pytest.param(4, [held(GPUS[0], ends=9000)], after(9000), id="when-the-last-one-ends"),
        pytest.param(3, [held(GPUS[0], ends=9000)], NOW, id="enough-without-it"),
        pytest.param(4, [held(GPUS[0])], None, id="unknown"),
        pytest.param(4, [held(GPUS[0], ends=10)], NOW, id="overdue-means-now"),
        pytest.param(4, [held(GPUS[0], state=LeaseState.DRAINING)], NOW, id="draining-means-now"),
        pytest.param(5, [], None, id="never"),
    ],
)
def test_earliest(wanted: int, leases: list[Lease], moment: datetime | None):
    assert earliest(GpuRequest("p", wanted), GPUS, leases, NOW) == moment


def test_earliest_is_on_one_node_and_takes_the_sooner_one():
    gpus = [*GPUS[:2], *[make_gpu(i, node="n2") for i in range(10, 12)]]
    leases = [held(gpus[0], ends=9000), held(gpus[2], ends=8000)]
    assert earliest(GpuRequest("p", 2), gpus, leases, NOW) == after(8000)


def test_two_seats_of_one_gpu_are_not_two_gpus():
    seats = [Gpu(f"{make_gpu(9).uuid}#{n}", "n1", 9, "L4", 12_000, seats=2) for n in range(2)]
    assert earliest(GpuRequest("p", 1, (), 0, "shared"), seats, [], NOW) == NOW
    assert earliest(GpuRequest("p", 2, (), 0, "shared"), seats, [], NOW) is None


def test_a_seat_is_not_free_while_its_gpu_is_leased_whole():
    seats = [Gpu(f"{GPUS[0].uuid}#{n}", "n1", 0, "L4", 12_000, seats=2) for n in range(2)]
    assert earliest(GpuRequest("p", 1, (), 0, "shared"), seats, [held(GPUS[0], ends=9000)], NOW) == after(9000)

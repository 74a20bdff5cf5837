"""The forecast of the line: what is known is told, what is not stays unknown."""

from __future__ import annotations

from datetime import datetime

import pytest

from spawner.expect import LEAST_HISTORY, LOOK_AHEAD, end_of, turns, wait_for
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.records import Ticket
from tests.unit.values import after, make_gpu, make_lease

NOW = after(1000)
GPUS = [make_gpu(i) for i in range(2)]
HISTORY = {"gpu-1": (100.0, 2000.0, 3000.0, 4000.0)}


def ticket(name: str, gpus: int = 1, profile: str = "gpu-1", models: tuple[str, ...] = ()) -> Ticket:
    return Ticket(name, Holder(name), GpuRequest(profile, gpus, models), (), 1, after(0))


@pytest.mark.parametrize(
    ("lease", "history", "moment"),
    [
        pytest.param(make_lease(), {}, None, id="nothing-known"),
        pytest.param(make_lease(ends=after(5000)), {}, after(5000), id="granted-life"),
        pytest.param(make_lease(ends=after(500)), {}, NOW, id="overdue-means-now"),
        pytest.param(make_lease(state=LeaseState.DRAINING, ends=after(9000)), HISTORY, NOW, id="draining-means-now"),
        pytest.param(make_lease(), HISTORY, after(3000), id="median-of-those-that-lasted-longer"),
        pytest.param(make_lease(ends=after(2500)), HISTORY, after(2500), id="life-ends-before-history"),
        pytest.param(make_lease(ends=after(9000)), HISTORY, after(3000), id="history-before-life"),
        pytest.param(make_lease(created=after(-100), bound=after(900)), HISTORY, after(3900), id="since-it-was-bound"),
        pytest.param(make_lease(created=after(-2000)), HISTORY, None, id="older-than-most-ever-were"),
        pytest.param(make_lease(profile="other"), HISTORY, None, id="history-of-another-profile"),
    ],
)
def test_end_of(lease: Lease, history: dict[str, tuple[float, ...]], moment: datetime | None):
    assert end_of(lease, history, NOW) == moment


def test_too_few_ended_labs_say_nothing():
    assert end_of(make_lease(), {"gpu-1": (5000.0,) * (LEAST_HISTORY - 1)}, NOW) is None
    assert end_of(make_lease(), {"gpu-1": (5000.0,) * LEAST_HISTORY}, NOW) == after(5000)


def test_free_means_now_and_then_by_history():
    expected = turns([ticket("a"), ticket("b"), ticket("c"), ticket("d", 2)], GPUS, [], HISTORY, NOW)
    assert (expected["a"], expected["b"]) == (NOW, NOW)
    # Labs of this profile last 3,000 s in the middle.
    assert expected["c"] == after(4000)
    assert expected["d"] == after(7000)


def test_without_history_only_the_first_is_known():
    assert turns([ticket("a"), ticket("b"), ticket("c")], GPUS, [], {}, NOW) == {"a": NOW, "b": NOW, "c": None}


def test_behind_one_whose_turn_is_unknown_nothing_is_promised():
    running = [make_lease(gpus=(GPUS[0].uuid,))]
    expected = turns([ticket("big", 2), ticket("small")], GPUS, running, {}, NOW)
    assert expected == {"big": None, "small": None}


def test_another_model_is_promised_all_the_same():
    other = make_gpu(7, model="A100")
    running = [make_lease(gpus=(GPUS[0].uuid,))]
    expected = turns([ticket("big", 2, models=("L4",)), ticket("small")], [*GPUS, other], running, {}, NOW)
    assert expected == {"big": None, "small": NOW}


def test_one_that_can_never_go_does_not_make_the_others_unknown():
    assert turns([ticket("huge", 3), ticket("small")], GPUS, [], {}, NOW) == {"huge": None, "small": NOW}


def test_units_of_one_node_only():
    apart = [GPUS[0], make_gpu(5, node="n2")]
    assert turns([ticket("a", 2)], apart, [], {}, NOW) == {"a": None}


def test_far_back_nothing_is_promised():
    line = [ticket(str(n)) for n in range(LOOK_AHEAD + 1)]
    expected = turns(line, GPUS, [], HISTORY, NOW)
    assert expected[str(LOOK_AHEAD - 1)] is not None
    assert expected[str(LOOK_AHEAD)] is None


def test_a_request_that_is_only_thought_of_is_behind_everyone():
    running = [make_lease(gpus=tuple(gpu.uuid for gpu in GPUS), ends=after(5000))]
    assert wait_for(ticket("thought"), [], GPUS, running, {}, NOW) == after(5000)
    assert wait_for(ticket("thought"), [ticket("a", 2)], GPUS, running, {}, NOW) is None
    assert wait_for(ticket("thought"), [ticket("a", 2)], GPUS, running, HISTORY, NOW) == after(3000 + 3000)

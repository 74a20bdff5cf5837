"""Units and their shapes: whole GPUs, seats and MIG instances never stand for the same device twice."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.errors import NoGpuFree
from spawner.grants import SharingRule
from spawner.model import Gpu, GpuRequest
from spawner.placement import packed
from spawner.sharing import distinct, fits_one_node, free, kind, most_on_one_node, suitable, suits, units, until
from tests.unit.values import T0, after, make_gpu

WHOLE = make_gpu(0)
OTHER = make_gpu(1)
SEATS = units([make_gpu(2)], [SharingRule(frozenset({make_gpu(2).uuid}), frozenset(), 2)])
PARENT = make_gpu(3)
MIG = tuple(dataclasses.replace(PARENT, uuid=f"MIG-{n}", parent=PARENT.uuid, memory_mib=6000) for n in range(2))
ALL = (WHOLE, OTHER, *SEATS, PARENT, *MIG)


def names(gpus) -> set[str]:
    return {gpu.uuid for gpu in gpus}


def test_seats_share_the_memory_and_keep_the_device():
    assert [seat.uuid for seat in SEATS] == [f"{make_gpu(2).uuid}#0", f"{make_gpu(2).uuid}#1"]
    assert {(seat.device, seat.memory_mib, seat.seats) for seat in SEATS} == {(make_gpu(2).uuid, 12_000, 2)}


def test_a_rule_names_gpus_or_models():
    rules = [SharingRule(frozenset(), frozenset({"A100"}), 3)]
    assert len(units([make_gpu(0), make_gpu(1, model="A100")], rules)) == 4


@pytest.mark.parametrize(
    ("taken", "gone"),
    [
        pytest.param([], set(), id="nothing"),
        pytest.param([WHOLE.uuid], {WHOLE.uuid}, id="whole"),
        pytest.param([SEATS[0].uuid], {SEATS[0].uuid}, id="one-seat-leaves-the-other"),
        pytest.param([SEATS[0].device], names(SEATS), id="leased-whole-before-it-was-shared"),
        pytest.param([f"{WHOLE.uuid}#1"], {WHOLE.uuid}, id="a-seat-of-what-is-whole-again"),
        pytest.param([PARENT.uuid], {PARENT.uuid, *names(MIG)}, id="leased-whole-before-it-was-split"),
        pytest.param([MIG[0].uuid], {PARENT.uuid, MIG[0].uuid}, id="an-instance-takes-the-whole-gpu"),
        pytest.param(["GPU-that-is-not-there"], set(), id="unknown"),
    ],
)
def test_free(taken: list[str], gone: set[str]):
    assert names(ALL) - names(free(ALL, taken)) == gone


@given(st.lists(st.sampled_from([*sorted(names(ALL)), SEATS[0].device, f"{WHOLE.uuid}#0"])))
def test_when_free_says_the_same_as_what_is_free(taken: list[str]):
    known = until(ALL, [(uuid, after(60)) for uuid in taken], T0)
    assert {uuid for uuid, moment in known.items() if moment == T0} == names(free(ALL, taken))
    unknown = until(ALL, [(uuid, None) for uuid in taken], T0)
    assert {uuid for uuid, moment in unknown.items() if moment is not None} == names(free(ALL, taken))
    for sharing in ("exclusive", "shared", "mig"):
        asked = suitable(ALL, GpuRequest("p", 1, sharing=sharing))
        assert set(free(asked, taken, ALL)) == set(free(ALL, taken)) & set(asked)


def test_the_latest_lease_says_when():
    assert until(SEATS, [(SEATS[0].uuid, after(9)), (SEATS[0].device, after(5))], T0) == {
        SEATS[0].uuid: after(9),
        SEATS[1].uuid: after(5),
    }


@pytest.mark.parametrize(
    ("gpu", "request_", "does"),
    [
        (WHOLE, GpuRequest("p", 1), True),
        (WHOLE, GpuRequest("p", 1, ("L4", "A100")), True),
        (WHOLE, GpuRequest("p", 1, ("A100",)), False),
        (WHOLE, GpuRequest("p", 1, (), 24_000), True),
        (WHOLE, GpuRequest("p", 1, (), 24_001), False),
        (WHOLE, GpuRequest("p", 1, sharing="shared"), False),
        (SEATS[0], GpuRequest("p", 1, sharing="shared"), True),
        (SEATS[0], GpuRequest("p", 1), False),
        (MIG[0], GpuRequest("p", 1, sharing="mig"), True),
        (MIG[0], GpuRequest("p", 1), False),
    ],
)
def test_suits(gpu: Gpu, request_: GpuRequest, does: bool):
    assert suits(gpu, request_) is does


def test_kinds():
    assert (kind(WHOLE), kind(SEATS[0]), kind(MIG[0])) == ("exclusive", "shared", "mig")


def test_two_seats_are_one_device():
    assert distinct(SEATS) == SEATS[:1]
    assert most_on_one_node(SEATS, GpuRequest("p", 1, sharing="shared")) == 1
    assert most_on_one_node(ALL, GpuRequest("p", 1)) == 3


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
@pytest.mark.parametrize("sharing", ["exclusive", "shared", "mig"])
def test_a_node_is_enough_exactly_where_placement_finds_a_place_in_an_empty_lab(wanted: int, sharing: str):
    request = GpuRequest("p", wanted, sharing=sharing)
    elsewhere = tuple(dataclasses.replace(make_gpu(n), node="other") for n in (7, 8))
    for gpus in (ALL, (*ALL, *elsewhere), elsewhere, SEATS, ()):
        try:
            packed(request, gpus, ())
        except NoGpuFree:
            assert not fits_one_node(gpus, request)
        else:
            assert fits_one_node(gpus, request)

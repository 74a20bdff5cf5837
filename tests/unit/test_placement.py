import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import sharing
from spawner.errors import NoGpuFree
from spawner.grants import SharingRule
from spawner.model import GpuRequest, LeaseState
from spawner.placement import packed
from tests.unit.values import make_gpu, make_lease


def ask(number: int, *models: str) -> GpuRequest:
    return GpuRequest("p", number, models)


def test_seats_are_given_to_requests_for_seats_only():
    rule = SharingRule(frozenset({make_gpu(0).uuid}), frozenset(), 2)
    units = sharing.units([make_gpu(0), make_gpu(1)], [rule])
    seat = GpuRequest("p", 1, sharing="shared")
    assert packed(ask(1), units, []) == (make_gpu(1).uuid,)
    first = packed(seat, units, [])
    assert first == (f"{make_gpu(0).uuid}#0",)
    assert packed(seat, units, [make_lease(gpus=first)]) == (f"{make_gpu(0).uuid}#1",)
    with pytest.raises(NoGpuFree):
        packed(GpuRequest("p", 2, sharing="shared"), units, [])


def test_a_gpu_that_became_shared_while_it_was_leased_has_no_free_seat():
    rule = SharingRule(frozenset(), frozenset({"L4"}), 2)
    whole = make_lease(gpus=(make_gpu(0).uuid,))
    seats = sharing.units([make_gpu(0)], [rule])
    with pytest.raises(NoGpuFree):
        packed(GpuRequest("p", 1, sharing="shared"), seats, [whole])
    with pytest.raises(NoGpuFree):
        packed(ask(1), [make_gpu(0)], [make_lease(gpus=(seats[0].uuid,))])


def test_a_request_for_memory_gets_gpus_that_have_it():
    big = dataclasses.replace(make_gpu(1), memory_mib=80_000)
    assert packed(GpuRequest("p", 1, gpu_memory_mib=40_000), [make_gpu(0), big], []) == (big.uuid,)


def test_no_gpu_is_always_granted():
    assert packed(ask(0), [], []) == ()


def test_lowest_free_index_is_taken():
    gpus = [make_gpu(i) for i in range(3)]
    assert packed(ask(1), gpus, [make_lease(gpus=(gpus[0].uuid,))]) == (gpus[1].uuid,)


def test_the_fuller_node_is_taken_so_that_big_requests_find_room():
    gpus = [make_gpu(0, node="a"), make_gpu(1, node="a"), make_gpu(2, node="b")]
    assert packed(ask(1), gpus, []) == (gpus[2].uuid,)


def test_one_model_before_a_mixture():
    gpus = [make_gpu(0, model="T4"), make_gpu(1), make_gpu(2)]
    assert packed(ask(2), gpus, []) == (gpus[1].uuid, gpus[2].uuid)
    assert packed(ask(3), gpus, []) == tuple(g.uuid for g in gpus)


def test_a_lease_never_spans_two_nodes():
    gpus = [make_gpu(0, node="a"), make_gpu(1, node="b")]
    with pytest.raises(NoGpuFree, match="at most 1 on one server"):
        packed(ask(2), gpus, [])


def test_a_draining_lease_still_holds():
    gpu = make_gpu(0)
    with pytest.raises(NoGpuFree, match=r"0 of 1 are free. Held by ana \(1 GPU, ending\)"):
        packed(ask(1), [gpu], [make_lease(gpus=(gpu.uuid,), state=LeaseState.DRAINING)])


def test_refusal_counts_and_names():
    gpus = [make_gpu(0), make_gpu(1)]
    with pytest.raises(NoGpuFree) as caught:
        packed(ask(2), gpus, [make_lease("bo", (gpus[1].uuid,))])
    assert (caught.value.wanted, caught.value.free, caught.value.total) == (2, 1, 2)
    assert "You asked for 2 GPUs; 1 of 2 is free. Held by bo (1 GPU)." in caught.value.message


def test_more_than_the_lab_has_is_told_as_that():
    with pytest.raises(NoGpuFree, match="this lab has 1 in all"):
        packed(ask(2), [make_gpu(0)], [])
    with pytest.raises(NoGpuFree, match="0 such GPUs"):
        packed(ask(1, "H100"), [make_gpu(0)], [])


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["L4", "T4"]), st.booleans()), max_size=8),
    st.integers(0, 4),
    st.sampled_from([(), ("L4",)]),
)
def test_choice_is_free_suitable_distinct_and_on_one_node(
    shape: list[tuple[str, str, bool]], wanted: int, models: tuple[str, ...]
):
    gpus = [make_gpu(i, node=node, model=model) for i, (node, model, _) in enumerate(shape)]
    taken = tuple(gpu.uuid for gpu, (_, _, held) in zip(gpus, shape, strict=True) if held)
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    fits = any(
        sum(g.node == node and g.uuid not in taken and (not models or g.model in models) for g in gpus) >= wanted for node in "ab"
    )
    try:
        chosen = packed(ask(wanted, *models), gpus, [make_lease(gpus=taken)])
    except NoGpuFree:
        assert not fits
        return
    assert fits or wanted == 0
    assert len(set(chosen)) == len(chosen) == wanted
    assert not set(chosen) & set(taken)
    assert len({by_uuid[u].node for u in chosen}) <= 1
    assert not models or all(by_uuid[u].model in models for u in chosen)


def test_a_refusal_in_a_big_lab_names_some_holders_and_counts_the_rest():
    gpus = [make_gpu(i) for i in range(20)]
    leases = [make_lease(f"p{i:02d}", (gpu.uuid,)) for i, gpu in enumerate(gpus)]
    with pytest.raises(NoGpuFree, match=r"p05 \(1 GPU\), p06 \(1 GPU\), 13 others\."):
        packed(ask(1), gpus, leases)

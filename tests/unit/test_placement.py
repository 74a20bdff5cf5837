import dataclasses
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spawner import sharing
from spawner.errors import NoGpuFree
from spawner.grants import SharingRule
from spawner.model import GpuRequest, LeaseState
from spawner.placement import packed, tightest
from spawner.records import Closeness
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


# --- closeness

NVLINK, SWITCH, PROCESSOR, ACROSS = Closeness.NVLINK, Closeness.SWITCH, Closeness.PROCESSOR, Closeness.ACROSS


def tree(*sizes: int, near: int = NVLINK, far: int = ACROSS):
    """GPUs in groups of these sizes: `near` within a group, `far` between groups."""
    gpus = [make_gpu(i) for i in range(sum(sizes))]
    group = [number for number, size in enumerate(sizes) for _ in range(size)]
    return gpus, {
        frozenset((gpus[i].uuid, gpus[j].uuid)): int(near if group[i] == group[j] else far)
        for i, j in combinations(range(len(gpus)), 2)
    }


def chosen(wanted: int, gpus, links, taken=()) -> list[int]:
    held = [make_lease(gpus=tuple(make_gpu(i).uuid for i in taken))]
    index = {gpu.uuid: gpu.index for gpu in gpus}
    return [index[uuid] for uuid in packed(ask(wanted), gpus, held, links)]


@pytest.mark.parametrize(
    ("wanted", "taken", "expected"),
    [
        pytest.param(4, (), [0, 1, 2, 3], id="a-quad"),
        pytest.param(4, (1,), [4, 5, 6, 7], id="the-quad-that-is-whole"),
        pytest.param(2, (1,), [0, 2], id="the-broken-quad-stays-broken"),
        pytest.param(1, (5,), [4], id="one-of-the-broken-quad"),
        pytest.param(2, (), [0, 1], id="none-is-broken"),
        pytest.param(3, (0, 1, 4), [5, 6, 7], id="three-that-are-left"),
        pytest.param(4, (0, 4), [1, 2, 3, 5], id="no-quad-is-left"),
        pytest.param(8, (), [0, 1, 2, 3, 4, 5, 6, 7], id="all"),
    ],
)
def test_two_quads(wanted: int, taken: tuple[int, ...], expected: list[int]):
    assert chosen(wanted, *tree(4, 4), taken) == expected


def test_the_widest_gap_counts_before_all_the_others():
    gpus, links = tree(2, 2, near=NVLINK + 11, far=ACROSS)
    # A ring is as fast as its slowest piece: three behind one switch, before a pair with NVLink and a third far away.
    for one, other in combinations((1, 2, 3), 2):
        links[frozenset((gpus[one].uuid, gpus[other].uuid))] = int(SWITCH)
    assert chosen(3, gpus, links) == [1, 2, 3]


def test_among_models_the_tighter_group():
    gpus = [make_gpu(0, model="A"), make_gpu(1, model="A"), make_gpu(2, model="B"), make_gpu(3, model="B")]
    links = {frozenset((gpus[2].uuid, gpus[3].uuid)): int(NVLINK)}
    assert packed(ask(2), gpus, [], links) == (gpus[2].uuid, gpus[3].uuid)
    assert packed(ask(2), gpus, []) == (gpus[0].uuid, gpus[1].uuid)


def test_one_model_before_closeness():
    gpus = [make_gpu(0, model="A"), make_gpu(1, model="B"), make_gpu(2, model="B")]
    links = {frozenset((gpus[0].uuid, gpus[1].uuid)): int(NVLINK)}
    assert packed(ask(2), gpus, [], links) == (gpus[1].uuid, gpus[2].uuid)


def test_many_gpus_are_looked_at_in_bounded_work():
    looked = 0

    class Counting(dict):
        def get(self, key, default=None):
            nonlocal looked
            looked += 1
            return super().get(key, default)

    # 12,870 groups of eight of sixteen, of which two are whole.
    gpus, links = tree(3, 8, 5, far=PROCESSOR)
    assert [gpu.index for gpu in tightest(gpus, 8, Counting(links))] == list(range(3, 11))
    assert looked == 16 * 16


CLOSENESS = st.sampled_from([ACROSS, PROCESSOR, SWITCH, NVLINK, NVLINK + 3])


@given(st.data(), st.integers(1, 16), st.integers(1, 16))
def test_there_is_a_choice_whenever_there_are_enough_and_it_is_the_same_again(data, number: int, wanted: int):
    gpus = [make_gpu(i) for i in range(number)]
    pairs = [frozenset((one.uuid, other.uuid)) for one, other in combinations(gpus, 2)]
    links = data.draw(st.dictionaries(st.sampled_from(pairs), CLOSENESS)) if pairs else {}
    taken = data.draw(st.sets(st.integers(0, number - 1)))
    if number - len(taken) < wanted:
        with pytest.raises(NoGpuFree):
            chosen(wanted, gpus, links, taken)
        return
    found = chosen(wanted, gpus, links, taken)
    assert found == sorted(set(found))
    assert len(found) == wanted
    assert not set(found) & taken
    shuffled = data.draw(st.permutations(gpus))
    assert chosen(wanted, shuffled, dict(reversed(links.items())), taken) == found


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 8))
@example(sizes=[3, 8, 5], wanted=8)
def test_in_a_tree_no_group_is_tighter_than_the_chosen_one(sizes: list[int], wanted: int):
    gpus, links = tree(*sizes)
    if wanted > len(gpus):
        return
    tight = chosen(wanted, gpus, links)
    gap = min((links[frozenset((gpus[i].uuid, gpus[j].uuid))] for i, j in combinations(tight, 2)), default=NVLINK)
    assert gap == (NVLINK if wanted <= max(sizes) else ACROSS)


@given(st.integers(1, 8), st.sets(st.integers(0, 7)), st.integers(1, 8))
def test_where_all_are_as_close_the_lowest_are_taken(number: int, taken: set[int], wanted: int):
    gpus, links = tree(number)
    taken &= set(range(number))
    if number - len(taken) >= wanted:
        assert chosen(wanted, gpus, links, taken) == chosen(wanted, gpus, {}, taken)

"""What NVIDIA's GPUs do, how they are, and how close they are: each question through the real nvidia-ml-py on the stand-in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path

import pytest

from spawner import health
from spawner.inventory import StaticInventory
from spawner.model import Gpu
from spawner.records import Closeness, Fault, GpuProcess, GpuSample
from tests.support import nvml
from tests.support.nvml import Answer, Card, NvmlStandIn

NODE = "vision-1"
NOW = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
A = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
B = "GPU-bbbbbbbb-1111-4222-8333-444444444444"
PART = "MIG-cccccccc-1111-4222-8333-444444444444"
OTHER_PART = "MIG-dddddddd-1111-4222-8333-444444444444"
PARTS = (Card(PART, "NVIDIA A100 MIG 3g.20gb", 20 << 30), Card(OTHER_PART, "NVIDIA A100 MIG 4g.20gb", 20 << 30))
LOOK = {"node": NODE, "at": NOW.isoformat()}

Look = Callable[..., Answer]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NvmlStandIn.build(tmp_path_factory.mktemp("nvml-now")).folder


@pytest.fixture
def standin(library: Path) -> NvmlStandIn:
    return NvmlStandIn(library, cards=(Card(A), Card(B)))


@pytest.fixture
def look(standin: NvmlStandIn) -> Look:
    """Sample these cards once."""

    def once(*cards: Card) -> Answer:
        standin.cards = cards
        answer = standin.ask(LOOK)
        assert answer.sessions == 0
        return answer

    return once


# --- samples


def test_a_simulated_gpu_is_there_and_nothing_is_known_of_it() -> None:
    inventory = StaticInventory([Gpu(A, NODE, 0, "Simulated", 1024, simulated=True)])
    assert inventory.samples(NOW) == (GpuSample(A, NOW),)
    assert inventory.links() == {}
    watcher = inventory.watch()
    watcher.close()
    assert watcher.wait(60) == ()


def test_a_busy_gpu_tells_what_it_does(look: Look) -> None:
    busy = Card(A, percent=97, used=20 << 30, celsius=71, uncorrected=0, rows=(0, 0), processes=((42, 19 << 30), (7, -1)))
    answer = look(busy)
    assert answer.samples == (GpuSample(A, NOW, 97, 20 << 10, 71, (GpuProcess(7, None), GpuProcess(42, 19 << 10))),)


def test_processes_of_the_multi_process_service_are_seen(look: Look) -> None:
    answer = look(Card(A, processes=((1, 1 << 20),), mps=((2, 2 << 20), (3, 3 << 20))))
    assert answer.samples[0].processes == (GpuProcess(1, 1), GpuProcess(2, 2), GpuProcess(3, 3))


def test_what_each_process_uses_is_its_busiest_sample(look: Look) -> None:
    running = ((1, 1 << 20), (2, 1 << 20), (3, 1 << 20))
    answer = look(Card(A, processes=running, uses=((1, 10), (2, 55), (1, 40), (9, 99), (2, 4_000_000))))
    assert answer.samples[0].processes == (GpuProcess(1, 1, 40), GpuProcess(2, 1, 100), GpuProcess(3, 1, 0))


def test_where_nothing_computed_lately_every_process_uses_nothing(look: Look) -> None:
    answer = look(Card(A, processes=((1, 1 << 20),), fails={"uses": nvml.NOT_FOUND}))
    assert answer.samples[0].processes == (GpuProcess(1, 1, 0),)


@pytest.mark.parametrize("error", [nvml.NOT_SUPPORTED, nvml.FUNCTION_NOT_FOUND, nvml.NO_PERMISSION, 999])
def test_a_driver_that_does_not_tell_what_processes_use_costs_nothing(look: Look, error: int) -> None:
    answer = look(Card(A, processes=((1, 1 << 20),), uses=((1, 10),), fails={"uses": error}))
    assert answer.samples == (GpuSample(A, NOW, memory_used_mib=0, processes=(GpuProcess(1, 1),)),)


def test_a_driver_without_the_older_question_tells_its_temperature(look: Look) -> None:
    assert look(Card(A, celsius=55, fails={"temperature": nvml.FUNCTION_NOT_FOUND})).samples[0].temperature == 55


@pytest.mark.parametrize("error", [nvml.NOT_SUPPORTED, nvml.FUNCTION_NOT_FOUND, nvml.NO_PERMISSION])
def test_what_card_or_driver_cannot_tell_is_unknown_and_no_fault(look: Look, error: int) -> None:
    questions = ("utilisation", "temperature", "processes", "ecc", "rows", "mode")
    answer = look(Card(A, memory_error=nvml.NOT_SUPPORTED, fails=dict.fromkeys(questions, error)))
    assert answer.samples == (GpuSample(A, NOW),)
    assert [gpu.uuid for gpu in answer.gpus] == [A]


@pytest.mark.parametrize(
    ("card", "fault", "comes_back"),
    [
        pytest.param(
            Card(A, uncorrected=2), Fault("ecc", "It had 2 uncorrected memory errors since it was last reset.", 2), True, id="ecc"
        ),
        pytest.param(
            Card(A, rows=(1, 0)),
            Fault("remap", "A defective row of its memory waits for a reset to be replaced.", 1),
            True,
            id="row-waits",
        ),
        pytest.param(
            Card(A, rows=(1, 1)),
            Fault("remap", "A defective row of its memory could not be replaced.", 2),
            False,
            id="row-failed",
        ),
        pytest.param(
            Card(A, pages=1),
            Fault("remap", "A defective page of its memory waits for a reset to be retired.", 1),
            True,
            id="page-waits-on-an-older-card",
        ),
        pytest.param(
            Card(A, fails={"utilisation": nvml.UNKNOWN}),
            Fault("nvml", "The driver failed to tell its utilisation (Unknown Error).", nvml.UNKNOWN),
            True,
            id="driver-fails",
        ),
        pytest.param(
            Card(A, fails={"temperature": nvml.GPU_IS_LOST}),
            Fault("lost", "The GPU does not answer its driver (GPU is lost).", nvml.GPU_IS_LOST),
            True,
            id="lost-while-it-was-asked",
        ),
    ],
)
def test_a_sick_gpu_says_why_and_goes_out_of_circulation(look: Look, card: Card, fault: Fault, comes_back: bool) -> None:
    sick, well = look(card, Card(B)).samples
    assert (sick.faults, well.faults) == ((fault,), ())
    mark = health.mark(sick)
    assert mark is not None
    assert (mark.subject, mark.reason, mark.comes_back) == (A, fault.detail, comes_back)


def test_a_gpu_that_vanishes_is_reported_until_it_is_back(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        assert [sample.faults for sample in process.ask(LOOK).samples] == [(), ()]
        standin.cards = (Card(A), Card(B, error=nvml.GPU_IS_LOST))
        for _ in range(2):
            answer = process.ask(LOOK)
            assert [gpu.uuid for gpu in answer.gpus] == [A]
            assert [(sample.uuid, [fault.kind for fault in sample.faults]) for sample in answer.samples] == [
                (A, []),
                (B, ["lost"]),
            ]
        standin.cards = (Card(A), Card(B))
        assert [sample.faults for sample in process.ask(LOOK).samples] == [(), ()]


def test_a_gpu_that_is_known_and_not_listed_is_lost_also_at_the_first_look(standin: NvmlStandIn) -> None:
    standin.cards = (Card(A),)
    samples = standin.ask({**LOOK, "known": [A, B, PART]}).samples
    assert [(sample.uuid, sample.faults) for sample in samples] == [
        (A, ()),
        (B, (Fault("lost", "The driver does not list it any more."),)),
    ]


def test_all_gpus_lost_are_all_reported(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        process.ask(LOOK)
        standin.cards = (Card(A, error=nvml.GPU_IS_LOST), Card(B, error=nvml.RESET_REQUIRED))
        assert [[fault.kind for fault in sample.faults] for sample in process.ask(LOOK).samples] == [["lost"], ["lost"]]


def test_a_driver_that_fails_as_a_whole_accuses_no_gpu(standin: NvmlStandIn) -> None:
    standin.cards = (Card(A, error=nvml.UNKNOWN), Card(B, error=nvml.UNKNOWN))
    answer = standin.ask({**LOOK, "known": [A, B]})
    assert answer.samples == ()
    assert "The NVIDIA driver of vision-1 failed to describe its GPUs: Unknown Error" in (answer.error or "")


def test_the_library_alone_is_enough_for_a_process_that_gets_no_other_variable(standin: NvmlStandIn) -> None:
    standin.write()
    done = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"],
        env={"LD_LIBRARY_PATH": str(standin.folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "2\n"


# --- MIG


def test_the_instances_of_a_split_gpu_are_gpus_of_their_own(look: Look) -> None:
    answer = look(Card(A, "NVIDIA A100", 40 << 30, instances=PARTS), Card(B, "NVIDIA A100", 40 << 30, mig=0))
    assert answer.gpus == (
        Gpu(PART, NODE, 0, "NVIDIA A100 MIG 3g.20gb", 20 << 10, parent=A),
        Gpu(OTHER_PART, NODE, 0, "NVIDIA A100 MIG 4g.20gb", 20 << 10, parent=A),
        Gpu(B, NODE, 1, "NVIDIA A100", 40 << 10),
    )
    assert [sample.uuid for sample in answer.samples] == [PART, OTHER_PART, B]


def test_a_gpu_that_is_split_into_nothing_yet_is_not_leased_whole(look: Look) -> None:
    answer = look(Card(A, mig=1))
    assert (answer.gpus, answer.samples, answer.error) == ((), (), None)


def test_an_instance_has_its_own_memory_and_the_temperature_and_faults_of_its_card(look: Look) -> None:
    one, other = PARTS
    parts = (Card(one.uuid, percent=50, used=3 << 30, processes=((9, 2 << 30),)), other)
    answer = look(Card(A, celsius=66, uncorrected=1, rows=(0, 0), instances=parts))
    fault = Fault("ecc", "It had an uncorrected memory error since it was last reset.", 1)
    assert answer.samples == (
        GpuSample(PART, NOW, None, 3 << 10, 66, (GpuProcess(9, 2 << 10),), (fault,)),
        GpuSample(OTHER_PART, NOW, None, 0, 66, (), (fault,)),
    )


def test_instances_that_an_admin_took_apart_are_not_lost_but_those_of_a_lost_card_are(standin: NvmlStandIn) -> None:
    standin.cards = (Card(A, instances=PARTS),)
    with standin.asked() as process:
        process.ask(LOOK)
        standin.cards = (Card(A, instances=PARTS[:1]),)
        assert [sample.uuid for sample in process.ask(LOOK).samples] == [PART]
        standin.cards = (Card(A, error=nvml.GPU_IS_LOST, instances=PARTS[:1]),)
        lost = process.ask(LOOK).samples
        assert [(sample.uuid, [fault.kind for fault in sample.faults]) for sample in lost] == [(PART, ["lost"])]
        standin.cards = (Card(A, mig=0),)
        assert [(sample.uuid, sample.faults) for sample in process.ask(LOOK).samples] == [(A, ())]


# --- Xid errors


def wait(seconds: float) -> dict[str, object]:
    return {"node": NODE, "wait": seconds}


def test_an_xid_error_is_told_of_its_gpu_once(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        # What happened before anybody listened is not news.
        standin.report(A, 31)
        assert process.ask(wait(0)).reports == ()
        standin.report(B, 79)
        assert process.ask(wait(60)).reports == ((B, Fault("xid", "The driver reported Xid 79.", 79)),)
        assert process.ask(wait(0)).reports == ()


def test_a_wait_ends_with_the_error_and_brings_all_that_is_there(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        process.ask(wait(0))
        process.begin(wait(60))
        standin.xids.append((A, 48, -1, -1))
        standin.report(B, 13)
        assert [(uuid, fault.code) for uuid, fault in process.answer().reports] == [(A, 48), (B, 13)]


def test_an_xid_error_of_a_split_gpu_concerns_the_instance_that_it_names_or_all(standin: NvmlStandIn) -> None:
    standin.cards = (Card(A, instances=PARTS),)
    with standin.asked() as process:
        process.ask(wait(0))
        for instance, concerned in ((2, [OTHER_PART]), (-1, [PART, OTHER_PART]), (6, [PART, OTHER_PART])):
            standin.report(A, 94, instance, 0 if instance > 0 else -1)
            assert [uuid for uuid, _ in process.ask(wait(60)).reports] == concerned


@pytest.mark.parametrize("card", [Card(A, error=nvml.GPU_IS_LOST), Card(A, fails={"events": nvml.NOT_SUPPORTED})])
def test_a_gpu_that_cannot_be_watched_does_not_spoil_it_for_the_others(standin: NvmlStandIn, card: Card) -> None:
    standin.cards = (card, Card(B))
    with standin.asked() as process:
        process.ask(wait(0))
        standin.report(B, 74)
        assert [uuid for uuid, _ in process.ask(wait(60)).reports] == [B]


def test_a_driver_that_was_restarted_is_heard_again(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        process.ask(wait(0))
        standin.start = nvml.UNKNOWN
        broken = process.ask(wait(0))
        assert "failed to report errors of GPUs" in (broken.error or "")
        assert broken.sessions == 0
        assert "failed to start" in (process.ask(wait(0)).error or "")
        standin.start = 0
        assert process.ask(wait(0)).error is None
        standin.report(A, 119)
        assert [uuid for uuid, _ in process.ask(wait(60)).reports] == [A]


def test_the_watcher_holds_one_session_and_lets_go_of_it(standin: NvmlStandIn) -> None:
    with standin.asked() as process:
        assert process.ask(wait(0)).sessions == 1
        assert process.ask(wait(0)).sessions == 1
        assert process.ask({"node": NODE, "close": True}).sessions == 0
        assert process.ask(wait(60)).reports == ()


# --- closeness


def names(number: int) -> list[str]:
    return [f"GPU-{i:08x}-1111-4222-8333-444444444444" for i in range(number)]


def close(standin: NvmlStandIn) -> dict[tuple[int, int], int]:
    """Closeness by index, of all pairs that anything is told of."""
    answer = standin.ask({"node": NODE, "links": True})
    assert (answer.error, answer.sessions) == (None, 0)
    place = {card.uuid: i for i, card in enumerate(standin.cards)}
    return {tuple(sorted(place[uuid] for uuid in pair)): value for pair, value in answer.links.items()}  # type: ignore[misc]


def test_pcie_is_told_from_the_same_switch_to_the_other_processor(standin: NvmlStandIn) -> None:
    a, *others = names(6)
    standin.cards = [Card(uuid) for uuid in (a, *others)]
    levels = (nvml.SINGLE, nvml.MULTIPLE, nvml.HOSTBRIDGE, nvml.NODE, nvml.SYSTEM)
    standin.ancestors = {(a, other): level for other, level in zip(others, levels, strict=True)}
    expected = [Closeness.SWITCH, Closeness.SWITCHES, Closeness.BRIDGE, Closeness.PROCESSOR, Closeness.ACROSS]
    found = close(standin)
    assert [found[0, i] for i in range(1, 6)] == expected
    assert expected == sorted(expected, reverse=True)


def test_nvlink_is_nearer_than_any_switch_and_more_links_are_nearer(standin: NvmlStandIn) -> None:
    a, b, c = names(3)
    standin.cards = [Card(uuid) for uuid in (a, b, c)]
    standin.ancestors = {pair: nvml.SINGLE for pair in combinations((a, b, c), 2)}
    standin.nvlinks = {(a, b): 4, (b, c): 1}
    assert close(standin) == {(0, 1): Closeness.NVLINK + 3, (0, 2): Closeness.SWITCH, (1, 2): Closeness.NVLINK}


def test_links_to_a_switch_reach_all_gpus_on_it(standin: NvmlStandIn) -> None:
    uuids = names(3)
    standin.cards = [Card(uuid) for uuid in uuids]
    standin.switched = dict.fromkeys(uuids[:2], 12)
    assert close(standin) == {(0, 1): Closeness.NVLINK + 11, (0, 2): Closeness.ACROSS, (1, 2): Closeness.ACROSS}


def test_where_links_do_not_tell_their_ends_it_counts_whether_they_lead_to_each_other(standin: NvmlStandIn) -> None:
    a, b, c, d = names(4)
    standin.cards = [Card(uuid, fails={"remote": nvml.NOT_SUPPORTED}) for uuid in (a, b, c, d)]
    standin.nvlinks = {(a, b): 2, (c, d): 2}
    found = close(standin)
    assert (found[0, 1], found[2, 3], found[0, 2], found[1, 3]) == (Closeness.NVLINK, Closeness.NVLINK, 0, 0)


def test_a_lost_gpu_an_instance_and_a_card_without_an_answer_are_in_no_pair(standin: NvmlStandIn) -> None:
    a, b, c, d, e = names(5)
    standin.cards = [
        Card(a),
        Card(b),
        Card(c, error=nvml.GPU_IS_LOST),
        Card(d, instances=PARTS[:1]),
        Card(e, fails={"topology": nvml.NOT_SUPPORTED}),
    ]
    standin.ancestors = {(a, b): nvml.SINGLE}
    assert close(standin) == {(0, 1): Closeness.SWITCH}

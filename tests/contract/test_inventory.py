"""One suite over both inventories, then what only NVIDIA's has: a driver that is absent, broken or lost a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spawner.errors import InventoryError
from spawner.inventory import Inventory, StaticInventory
from spawner.model import Gpu
from tests.support import nvml
from tests.support.nvml import Card, NvmlStandIn, ThroughStandIn

NODE = "vision-1"
A = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
B = "GPU-bbbbbbbb-1111-4222-8333-444444444444"
SIMULATED = "GPU-5f0e2a10-0000-4000-8000-000000000001"
CARDS = (Card(A, "NVIDIA RTX A5000", 24564 << 20), Card(B, "NVIDIA L4", 23034 << 20))

Make = Callable[..., Inventory]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NvmlStandIn.build(tmp_path_factory.mktemp("nvml")).folder


@pytest.fixture
def standin(library: Path) -> NvmlStandIn:
    return NvmlStandIn(library, cards=CARDS)


@pytest.fixture(params=["static", "nvml"])
def make(request: pytest.FixtureRequest, library: Path) -> Make:
    """Build an inventory of the given cards."""

    def static(*cards: Card) -> Inventory:
        return StaticInventory(Gpu(card.uuid, NODE, index, card.name, card.memory >> 20) for index, card in enumerate(cards))

    def through_nvml(*cards: Card) -> Inventory:
        return ThroughStandIn(NvmlStandIn(library, cards=cards), NODE)

    return static if request.param == "static" else through_nvml


# --- both -------------------------------------------------------------------


def test_gpus_in_index_order_with_node_model_and_memory(make: Make) -> None:
    assert make(*CARDS).gpus() == (
        Gpu(A, NODE, 0, "NVIDIA RTX A5000", 24564, simulated=False),
        Gpu(B, NODE, 1, "NVIDIA L4", 23034, simulated=False),
    )


def test_gpus_asked_twice_are_the_same(make: Make) -> None:
    inventory = make(*CARDS)
    assert inventory.gpus() == inventory.gpus()


def test_no_gpu_is_an_answer_and_not_an_error(make: Make) -> None:
    assert make().gpus() == ()


@pytest.mark.parametrize(
    "uuid",
    [
        pytest.param("0", id="index"),
        pytest.param("GPU-0", id="short"),
        pytest.param(A.upper(), id="capitals"),
        pytest.param(f"{A},{B}", id="two-in-one"),
        pytest.param("MIG-aaaaaaaa-1111-4222-8333-444444444444", id="instance-without-its-card"),
    ],
)
def test_a_uuid_without_the_real_form_is_refused_by_name(make: Make, uuid: str) -> None:
    with pytest.raises(InventoryError, match=r"GPU 1 of vision-1 is called"):
        make(Card(A), Card(uuid)).gpus()


def test_two_gpus_with_one_uuid_are_refused(make: Make) -> None:
    with pytest.raises(InventoryError, match=f"same UUID as GPU 0: {A}"):
        make(Card(A), Card(A)).gpus()


# --- NVIDIA's ---------------------------------------------------------------


def test_every_nvml_session_is_ended(standin: NvmlStandIn) -> None:
    assert standin.ask({"node": NODE}).sessions == 0
    standin.cards = [Card(A, error=nvml.UNKNOWN)]
    failed = standin.ask({"node": NODE})
    assert failed.error is not None
    assert failed.sessions == 0


def test_memory_that_the_driver_cannot_tell_is_zero(standin: NvmlStandIn) -> None:
    standin.cards = [Card(A, memory_error=nvml.NOT_SUPPORTED)]
    assert [gpu.memory_mib for gpu in standin.ask({"node": NODE}).gpus] == [0]


@pytest.mark.parametrize("error", [nvml.GPU_IS_LOST, nvml.RESET_REQUIRED])
def test_a_lost_gpu_is_left_out_and_logged_and_the_others_stay(standin: NvmlStandIn, error: int) -> None:
    standin.cards = [Card(A, error=error), Card(B)]
    answer = standin.ask({"node": NODE})
    assert [(gpu.uuid, gpu.index) for gpu in answer.gpus] == [(B, 1)]
    assert "GPU 0 of vision-1 is left out" in answer.log


def test_all_gpus_lost_is_an_error(standin: NvmlStandIn) -> None:
    standin.cards = [Card(A, error=nvml.GPU_IS_LOST), Card(B, error=nvml.GPU_IS_LOST)]
    assert "None of the 2 GPUs of vision-1 answers" in (standin.ask({"node": NODE}).error or "")


def test_an_unknown_error_of_one_gpu_is_an_error_that_names_it(standin: NvmlStandIn) -> None:
    standin.cards = [Card(A), Card(B, error=nvml.UNKNOWN)]
    assert "failed to describe GPU 1: Unknown Error" in (standin.ask({"node": NODE}).error or "")


def test_a_session_that_does_not_end_cleanly_does_not_spoil_the_answer(standin: NvmlStandIn) -> None:
    standin.shutdown = nvml.UNKNOWN
    answer = standin.ask({"node": NODE})
    assert len(answer.gpus) == 2
    assert "did not end cleanly" in answer.log


# --- detection --------------------------------------------------------------


@pytest.fixture
def question(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Build the question for `detect`: which source lab.yaml names, and whether the host has an NVIDIA card."""

    def build(source: str, card: bool = False) -> dict[str, str]:
        lab = tmp_path / "lab.yaml"
        data = yaml.safe_load((nvml.REPO / "lab.yaml").read_text())
        data["gpus"] = {"source": source, "simulated": [{"uuid": SIMULATED, "model": "Simulated", "memory": "24g"}]}
        lab.write_text(yaml.safe_dump(data))
        pci = tmp_path / "pci"
        for name, vendor, kind in [("0000:00:02.0", "0x8086", "0x030000"), ("0000:00:03.0", "0x10de", "0x040300")]:
            (pci / name).mkdir(parents=True, exist_ok=True)
            (pci / name / "vendor").write_text(f"{vendor}\n")
            (pci / name / "class").write_text(f"{kind}\n")
        if card:
            (pci / "0000:01:00.0").mkdir()
            (pci / "0000:01:00.0" / "vendor").write_text("0x10de\n")
            (pci / "0000:01:00.0" / "class").write_text("0x030200\n")
        return {"node": NODE, "lab": str(lab), "pci": str(pci)}

    return build


def test_auto_with_a_driver_takes_the_real_gpus(standin: NvmlStandIn, question: Callable[..., dict[str, str]]) -> None:
    answer = standin.ask(question("auto"))
    assert [(gpu.uuid, gpu.simulated) for gpu in answer.gpus] == [(A, False), (B, False)]
    assert answer.sessions == 0


def test_auto_with_a_driver_and_no_gpu_simulates_none(standin: NvmlStandIn, question: Callable[..., dict[str, str]]) -> None:
    standin.cards = []
    answer = standin.ask(question("auto"))
    assert (answer.gpus, answer.error) == ((), None)


@pytest.mark.parametrize("source", ["auto", "simulated"])
def test_without_a_driver_the_simulated_gpus_are_marked(
    tmp_path: Path, question: Callable[..., dict[str, str]], source: str
) -> None:
    answer = NvmlStandIn.absent(tmp_path).ask(question(source))
    assert answer.gpus == (Gpu(SIMULATED, NODE, 0, "Simulated", 24576, simulated=True),)


def test_a_library_without_driver_or_card_counts_as_no_driver(
    standin: NvmlStandIn, question: Callable[..., dict[str, str]]
) -> None:
    standin.start = nvml.DRIVER_NOT_LOADED
    assert [gpu.simulated for gpu in standin.ask(question("auto")).gpus] == [True]


@pytest.mark.parametrize(
    ("error", "card"),
    [
        pytest.param(nvml.DRIVER_NOT_LOADED, True, id="card-without-its-module"),
        pytest.param(nvml.VERSION_MISMATCH, False, id="driver-updated-without-reboot"),
        pytest.param(nvml.UNKNOWN, False, id="unknown"),
    ],
)
def test_a_broken_driver_never_becomes_simulated_gpus(
    standin: NvmlStandIn, question: Callable[..., dict[str, str]], error: int, card: bool
) -> None:
    standin.start = error
    answer = standin.ask(question("auto", card))
    assert answer.gpus == ()
    assert "The NVIDIA driver of vision-1 failed to start" in (answer.error or "")
    assert "nvidia-smi" in (answer.error or "")


def test_nvml_asked_for_and_absent_says_what_to_do(tmp_path: Path, question: Callable[..., dict[str, str]]) -> None:
    answer = NvmlStandIn.absent(tmp_path).ask(question("nvml"))
    assert answer.gpus == ()
    assert answer.error == ("vision-1 has no NVIDIA driver. Install it, or set `gpus.source` to `simulated` in lab.yaml.")


def test_simulated_asked_for_is_simulated_also_beside_a_driver(
    standin: NvmlStandIn, question: Callable[..., dict[str, str]]
) -> None:
    assert [gpu.uuid for gpu in standin.ask(question("simulated")).gpus] == [SIMULATED]

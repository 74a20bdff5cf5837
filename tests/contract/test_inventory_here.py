"""What any of NVIDIA's drivers must answer in one way or another: asked of the stand-in, and of this host's own GPUs.

On a host without one the second half is skipped: the capability that is missing is a physical NVIDIA GPU with its driver.
"""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path

import pytest

from spawner import health
from spawner.errors import InventoryError
from spawner.inventory import Inventory, NvmlInventory
from spawner.records import Closeness
from tests.support.nvml import SINGLE, Card, NvmlStandIn, ThroughStandIn

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
A = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
B = "GPU-bbbbbbbb-1111-4222-8333-444444444444"


@pytest.fixture(scope="module", params=["stand-in", "physical"])
def inventory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    if request.param == "stand-in":
        standin = NvmlStandIn.build(tmp_path_factory.mktemp("nvml-here"))
        standin.cards = (Card(A, percent=5, used=1 << 30, celsius=40, uncorrected=0, rows=(0, 0), processes=((1, -1),)), Card(B))
        standin.ancestors = {(A, B): SINGLE}
        return ThroughStandIn(standin, "here")
    here = NvmlInventory("here")
    try:
        found = here.gpus()
    except InventoryError as error:
        # A driver that is there and broken is a failure, not a missing capability.
        if not Path("/proc/driver/nvidia/version").exists():
            pytest.skip(f"no physical NVIDIA GPU: {error}")
        raise
    if not found:
        pytest.skip("no physical NVIDIA GPU: the driver lists none")
    return here


def test_every_gpu_has_a_name_a_model_and_memory(inventory: Inventory) -> None:
    gpus = inventory.gpus()
    assert len({gpu.uuid for gpu in gpus}) == len(gpus) > 0
    assert all(gpu.model and gpu.memory_mib > 0 and not gpu.simulated for gpu in gpus)
    assert all(gpu.uuid.startswith("MIG-" if gpu.parent else "GPU-") for gpu in gpus)


def test_every_gpu_has_a_sample_in_which_each_number_is_possible(inventory: Inventory) -> None:
    memory = {gpu.uuid: gpu.memory_mib for gpu in inventory.gpus()}
    samples = inventory.samples(NOW)
    assert [sample.uuid for sample in samples] == list(memory)
    for sample in samples:
        assert sample.utilisation is None or 0 <= sample.utilisation <= 100
        assert sample.memory_used_mib is not None
        assert 0 <= sample.memory_used_mib <= memory[sample.uuid]
        assert sample.temperature is None or 0 < sample.temperature < 120
        pids = [process.pid for process in sample.processes or ()]
        assert pids == sorted(set(pids))


def test_a_gpu_is_well_or_says_why_not(inventory: Inventory) -> None:
    for sample in inventory.samples(NOW):
        mark = health.mark(sample)
        assert health.passed(sample) is (mark is None)
        assert mark is None or mark.reason.endswith(".")


def test_two_whole_gpus_have_a_closeness(inventory: Inventory) -> None:
    whole = [gpu.uuid for gpu in inventory.gpus() if not gpu.parent]
    links = inventory.links()
    assert set(links) == {frozenset(pair) for pair in combinations(whole, 2)}
    assert all(close >= Closeness.ACROSS for close in links.values())


def test_a_watcher_waits_no_longer_than_it_is_told_and_can_be_closed_twice(inventory: Inventory) -> None:
    watcher = inventory.watch()
    try:
        known = {gpu.uuid for gpu in inventory.gpus()}
        assert {uuid for uuid, _ in watcher.wait(0)} <= known
    finally:
        watcher.close()
        watcher.close()
    assert watcher.wait(60) == ()

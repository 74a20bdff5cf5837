"""GPUs with errors, on a real hub with the stand-in of NVIDIA's driver: the board shows the reason; nobody is given them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spawner.engine import Engine
from tests.conftest import OUTCOME
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.nvml import Card, NvmlStandIn

WELL = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
SICK = "GPU-bbbbbbbb-1111-4222-8333-444444444444"


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    folder = tmp_path / "driver"
    folder.mkdir()
    library = NvmlStandIn.build(folder)
    library.cards = tuple(Card(uuid, "NVIDIA L4", 24 << 30, percent=37, used=2 << 30, celsius=61) for uuid in (WELL, SICK))
    library.write()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return library


@pytest.fixture
def hub(lab_files: LabFiles, standin: NvmlStandIn, engine: Engine, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    lab_files.edit(gpus={"source": "auto"})
    with running_hub(lab_files, engine, lambda: request.node.stash.get(OUTCOME, False)) as running:
        yield running


def test_a_gpu_with_a_broken_memory_goes_out_with_its_reason_and_an_admin_brings_it_back(hub: HubProcess, standin: NvmlStandIn):
    root = hub.token("root", admin=True)

    def gpu(uuid: str) -> dict[str, Any]:
        board = hub.api("GET", "/gpus", root).json()
        found: dict[str, Any] = next(gpu for gpu in board["gpus"] if gpu["id"] == uuid)
        return found

    hub.wait_for(lambda: gpu(WELL)["utilisation"] == 37, 30, "the first look at the GPUs")
    assert (gpu(WELL)["memory_used_mib"], gpu(WELL)["temperature"], gpu(WELL)["out"]) == (2048, 61, None)
    standin.cards = (standin.cards[0], dataclasses.replace(standin.cards[1], rows=(0, 1)))
    standin.write()
    out = hub.wait_for(lambda: gpu(SICK)["out"], 30, "the sick GPU to go out")
    assert (out["kind"], out["by"]) == ("sick", "lab")
    assert out["reason"] == "A defective row of its memory could not be replaced."
    assert gpu(WELL)["out"] is None
    assert "is taken out of circulation" in hub.log.read_text()
    standin.cards = (standin.cards[0], dataclasses.replace(standin.cards[1], rows=(0, 0)))
    standin.write()
    assert hub.api("DELETE", f"/gpus/marks/{SICK}", root).ok
    assert gpu(SICK)["out"] is None
    history = hub.wait_for(lambda: hub.api("GET", "/gpus/history", root).json()["points"], 30, "the picture of the day")
    assert history[0]["total"] == 2

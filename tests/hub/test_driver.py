"""A hub on a host with NVIDIA's driver, played by the stand-in library: what the driver says is what people see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.engine import Engine
from tests.conftest import OUTCOME
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.nvml import Card, NvmlStandIn

WHOLE = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
SPLIT = "GPU-bbbbbbbb-1111-4222-8333-444444444444"
PARTS = ("MIG-cccccccc-1111-4222-8333-444444444444", "MIG-dddddddd-1111-4222-8333-444444444444")


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    folder = tmp_path / "driver"
    folder.mkdir()
    library = NvmlStandIn.build(folder)
    library.cards = (Card(WHOLE, "NVIDIA L4", 23034 << 20), Card(SPLIT, "NVIDIA A100", 40 << 30, mig=0))
    library.write()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return library


@pytest.fixture
def hub(lab_files: LabFiles, standin: NvmlStandIn, engine: Engine, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    lab_files.edit(gpus={"source": "auto"})
    with running_hub(lab_files, engine, lambda: request.node.stash.get(OUTCOME, False)) as running:
        yield running


def test_a_card_that_is_split_while_the_hub_runs_shows_as_its_instances(hub: HubProcess, standin: NvmlStandIn):
    token = hub.token("root", admin=True)

    def shown() -> list[str]:
        answer = hub.api("GET", "/gpus", token)
        assert answer.status_code == 200, answer.text
        return sorted(gpu["id"] for gpu in answer.json()["gpus"])

    assert shown() == [WHOLE, SPLIT]
    standin.cards = (standin.cards[0], Card(SPLIT, "NVIDIA A100", 40 << 30, instances=tuple(Card(part) for part in PARTS)))
    standin.write()
    until = time.monotonic() + 30
    while shown() != [WHOLE, *PARTS]:
        assert time.monotonic() < until, "the board still shows the whole card"
        time.sleep(0.2)


def test_the_settler_finds_the_same_driver_as_the_hub(hub: HubProcess, standin: NvmlStandIn):
    hub.wait_for(hub._settlers, 30, "the settler to start")
    (settler,) = hub._settlers()
    assert f"LD_LIBRARY_PATH={standin.folder}".encode() in Path(f"/proc/{settler}/environ").read_bytes().split(b"\0")

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from defectlab import launch

SCRIPT = launch.SCRIPTS / "ddp.py"


def run(tiny_folder: Path, out: Path, ranks: int = 2, *words: str, **more: Any) -> launch.Launched:
    settings = ["--data", str(tiny_folder), "--out", str(out), "--epochs", "2", "--batch", "8", "--limit", "64", "--size", "48"]
    return launch.torchrun(SCRIPT, ranks, *settings, *words, limit=300, **more)


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ddp") / "whole"
    done = run(tiny_folder, out)
    assert done.code == 0, done.output
    assert [line.split(":")[0] for line in done.output.splitlines() if line.startswith("epoch")] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
    ]
    return out


def test_two_ranks_train_and_hold_the_same_weights(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert (result["ranks"], result["device"], result["equal"], result["restarts"]) == (2, "cpu", True, 0)
    assert result["batch_per_step"] == 16
    assert len(result["losses"]) == 2
    assert result["images_per_second"] > 0
    assert result["all_reduce_seconds"] > 0
    assert sorted(path.name for path in whole.iterdir()) == ["network.pt", "result.json"]


def test_after_a_killed_rank_all_go_on_and_end_as_if_nothing_had_been(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    done = run(tiny_folder, tmp_path / "killed", restarts=1, env={"DDP_DIE": "1:1"})
    assert done.code == 0, done.output
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert (result["restarts"], result["equal"]) == (1, True)
    assert result["losses"] == json.loads((whole / "result.json").read_text())["losses"]
    one, other = (torch.load(out / "network.pt", weights_only=True) for out in (whole, tmp_path / "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_without_restarts_it_says_so_and_the_next_run_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    done = run(tiny_folder, tmp_path, env={"DDP_DIE": "1:1"})
    assert done.code != 0
    assert (tmp_path / "checkpoint").exists()
    refused = run(tiny_folder, tmp_path, 2, "--seed", "1")
    assert refused.code != 0
    assert "ddp: " in refused.output
    assert "other settings or other data" in refused.output


def test_a_missing_data_set_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path / "none", tmp_path / "out", 1)
    assert done.code != 0
    assert "ddp: There is no data set in" in done.output


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "sleepy.py"
    script.write_text("import time; print('here', flush=True); time.sleep(600)\n")
    done = launch.torchrun(script, 1, limit=15)
    assert done.code == 124
    assert done.seconds < 60

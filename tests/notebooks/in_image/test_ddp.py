from __future__ import annotations

import json
import subprocess
import sys
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
    done = run(tiny_folder, tmp_path / "killed", restarts=1, env={"DDP_DIE": "1:2"})
    assert done.code == 0, done.output
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert (result["restarts"], result["equal"]) == (1, True)
    assert result["losses"] == json.loads((whole / "result.json").read_text())["losses"]
    one, other = (torch.load(out / "network.pt", weights_only=True) for out in (whole, tmp_path / "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_without_restarts_it_says_so_and_the_next_run_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    done = run(tiny_folder, tmp_path, env={"DDP_DIE": "1:2"})
    assert done.code != 0
    assert (tmp_path / "checkpoint").exists()
    refused = run(tiny_folder, tmp_path, 2, "--seed", "1")
    assert refused.code != 0
    assert "ddp: " in refused.output
    assert "other settings or other data" in refused.output


def test_a_training_that_is_done_says_so_and_another_does_not_overwrite_it(whole: Path, tiny_folder: Path) -> None:
    before = (whole / "result.json").read_bytes()
    again = run(tiny_folder, whole)
    assert again.code == 0, again.output
    assert f"{whole} has the result of this training already" in again.output
    other = run(tiny_folder, whole, 2, "--rate", "0.001")
    assert other.code != 0
    assert f"ddp: {whole} has the result of another training: name another --out, or remove it." in other.output
    assert (whole / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "argument --batch: '0' is not a whole number from 2 on"),
        (["--rate", "2"], "argument --rate: '2' is not a number between 0 and 1"),
        (["--accumulate", "9"], "ddp: One step takes 144 images, and there are 64: choose a smaller --batch or --accumulate."),
        (["--sync-batchnorm"], "ddp: PyTorch has SyncBatchNorm for GPUs alone, and there is none: leave --sync-batchnorm out."),
        (["--precision", "tf32"], "ddp: This device does not compute in tf32: choose another --precision."),
        (["--data", "/none"], "ddp: There is no data set in /none"),
        (["--out", "/proc/none"], "ddp: The training could not be written to /proc/none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_sentence_of_one_rank(tiny_folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    done = run(tiny_folder, tmp_path / "out", 2, *words)
    assert done.code != 0
    assert done.output.count(said) == 1
    # torchrun has a traceback of its own; the script has none.
    assert 'scripts/ddp.py", line' not in done.output


def test_started_without_torchrun_it_says_how(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--data", "/none", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("ddp: torchrun starts this: `torchrun --standalone")) == (1, True)
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "torchrun --standalone --nproc_per_node=2" in told
    assert "(default: 0.003)" in " ".join(told.split())


PORTS = """
import os, signal, time
print("store", os.environ["MASTER_PORT"], "of torchrun" if os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True" else "of rank 0")
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("env", "stores"), [({}, 2), ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}, 1)], ids=["ours", "torchrun's"]
)
def test_ranks_that_are_started_again_do_not_meet_in_the_store_of_the_dead(
    tmp_path: Path, env: dict[str, str], stores: int
) -> None:
    # The second case is why the first is needed: once PyTorch makes a new store for each start, the setting can go.
    script = tmp_path / "ports.py"
    script.write_text(PORTS)
    done = launch.torchrun(script, 1, restarts=1, env=env)
    assert done.code == 0, done.output
    said = [line for line in done.output.splitlines() if line.startswith("store ")]
    assert len(said) == 2
    assert len(set(said)) == stores


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "sleepy.py"
    script.write_text("import time; print('here', flush=True); time.sleep(600)\n")
    done = launch.torchrun(script, 1, limit=15)
    assert done.code == 124
    assert done.seconds < 60

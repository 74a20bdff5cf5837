"""What a run of notebooks keeps, and what it refuses to keep; the notebooks themselves are run by tests/notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from bench import machine, notebooks, outcome
from spawner import labfile

CPU = labfile.load(notebooks.lab.REPO / "lab.yaml").profiles["cpu"]
ORIGIN: dict[str, Any] = {
    "when": "2026-11-28 10:00 UTC", "machine": {"cpu": "AMD EPYC", "cores": "2"}, "limits": {"cpus": 2.0}, "gpus": [],
}  # fmt: skip


def ran(**metadata: Any) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_markdown_cell("told")]
    found = nbformat.v4.new_notebook(cells=cells)
    found.metadata |= {
        "seconds": 12.3,
        "peak_bytes": 2_000_000_000,
        "figures": {"auroc.value": 0.987654321, "seed": 0},
        **metadata,
    }
    return nbformat.from_dict(found)


def test_a_result_has_the_figures_to_every_digit_and_a_table_to_read(tmp_path: Path) -> None:
    notebooks.written("01_first_defect_model", ran(), ORIGIN, SimpleNamespace(out=tmp_path))
    target = tmp_path / "2026-11-28-notebook-01_first_defect_model-amd-epyc-2c.md"
    assert "| auroc.value | 0.987654 |" in target.read_text()
    assert "12 s and had at most 2.00 GB" in target.read_text()
    kept = json.loads(target.with_suffix(".json").read_text())["samples"]
    assert kept["figures"] == {"auroc.value": 0.987654321, "seed": 0}
    assert (kept["cpus"], kept["gpus"], kept["seconds"]) == (2.0, [], 12.3)


def test_gpus_are_in_the_name_of_a_result(tmp_path: Path) -> None:
    found = outcome.path(tmp_path, "notebook-04_amp", ORIGIN, ["NVIDIA L4, 22 GiB", "NVIDIA L4, 22 GiB"])
    assert found.name == "2026-11-28-notebook-04_amp-amd-epyc-2c-2x-nvidia-l4.md"
    assert machine.gpu_slug([]) == ""


def test_the_digest_is_of_the_code_and_not_of_the_prose() -> None:
    one, other, third = ran(), ran(), ran()
    other.cells[1].source = "told otherwise"
    third.cells[0].source = "x = 2"
    assert notebooks.source_of(one) == notebooks.source_of(other) != notebooks.source_of(third)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ran(error="ValueError: boom"), "failed: ValueError: boom"),
        (ran(figures={}), "recorded no figures"),
    ],
)
def test_a_notebook_that_failed_has_no_result(monkeypatch: pytest.MonkeyPatch, found: nbformat.NotebookNode, said: str) -> None:
    monkeypatch.setattr(notebooks.lab, "execute", lambda *_args, **_options: found)
    with pytest.raises(notebooks.Failed, match=said):
        notebooks.run(None, "01_first_defect_model", {}, {})


def test_a_warning_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran()
    found.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: old")]
    monkeypatch.setattr(notebooks.lab, "execute", lambda *_args, **_options: found)
    with pytest.raises(notebooks.Failed, match="UserWarning: old"):
        notebooks.run(None, "01_first_defect_model", {}, {})


def test_a_failure_is_exit_code_1_and_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_asked: object) -> None:
        raise notebooks.Failed("04_amp failed")

    monkeypatch.setattr(notebooks, "measure", fails)
    assert notebooks.main(["04_amp"]) == 1
    assert capsys.readouterr().err == "Nothing was written of it: 04_amp failed\n"


def test_the_command_that_is_told_has_no_path_of_this_machine() -> None:
    words = ["01_first_defect_model", "--data", "/home/ana/data", "--models=/home/ana/models", "--quiet-wait", "0"]
    assert notebooks.anonymous(words) == [
        "01_first_defect_model", "--data", "FOLDER", "--models=FOLDER", "--quiet-wait", "0",
    ]  # fmt: skip


def test_limits_are_those_of_the_profile_and_of_the_tests() -> None:
    found = notebooks.limits(CPU)
    assert found["cpu_quota"] == notebooks.lab.LIMITS["cpu_quota"]
    assert (found["mem_limit"], found["shm_size"]) == (4 << 30, 1 << 30)

"""The starter notebooks: paired, stripped, short, and executed in the lab image as an engineer would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import jupytext
import nbformat
import pytest

from tests.notebooks.conftest import Lab
from tests.notebooks.image import REPO, execute, volumes

NOTEBOOKS = sorted((REPO / "notebooks").glob("[0-9]*.ipynb"))
MOST_CELLS = 40
FULL = os.environ.get("GPULAB_TEST_FULL") == "1"


def test_every_source_has_its_notebook_and_the_other_way_round() -> None:
    sources = {path.stem for path in (REPO / "notebooks").glob("[0-9]*.py")}
    assert sources == {path.stem for path in NOTEBOOKS}
    assert sources


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestShape:
    def test_it_says_what_its_source_says(self, path: Path) -> None:
        notebook, source = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
        assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(c.cell_type, c.source) for c in source.cells]

    def test_it_is_stripped(self, path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "nbstripout", "--verify", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout

    def test_it_is_short_and_runs_anywhere(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        assert len(notebook.cells) <= MOST_CELLS
        assert notebook.metadata.kernelspec.name == "python3"
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)

    def test_it_tells_a_story(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        first, last = notebook.cells[0].source, notebook.cells[-1].source
        assert all(word in first for word in ("time on two CPU cores", "time on a GPU", "memory", "**Aim.**", "licence"))
        assert "What we learnt" in notebook.cells[-2].source
        assert "assert " in last
        # After each plot, its reading or the next step; never two pieces of code that nobody explains in a row of three.
        kinds = "".join(cell.cell_type[0] for cell in notebook.cells)
        assert "ccc" not in kinds

    def test_it_asks_no_network(self, path: Path) -> None:
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        assert not re.search(r"https?://|requests|urllib|pip install|download", code)


def executed(client: docker.DockerClient, name: str, *changes: str, mounts: dict[str, Any], smoke: bool) -> nbformat.NotebookNode:
    """Execute without an error and without a warning."""
    notebook = execute(client, name, *changes, mounts=mounts, smoke=smoke)
    print(f"{name}: {notebook.metadata.seconds} s, {notebook.metadata.peak_bytes / 1e9:.2f} GB")
    assert "error" not in notebook.metadata, notebook.metadata.error
    # Warnings are written to standard error; progress bars are widgets.
    assert "".join(o.text for c in notebook.cells for o in c.get("outputs", ()) if o.get("name") == "stderr") == ""
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", ()) if o.get("name") == "stdout")


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    return sum("image/png" in o.get("data", {}) for o in outputs)


@pytest.fixture(scope="module")
def textures(client: docker.DockerClient, lab: Lab) -> Iterator[dict[str, Any]]:
    """The default data set, read-only as a lab has it."""
    with volumes(client, "data") as (data,):
        write = ("python", "-m", "defectlab", "data", "textures", "--out", "/workspace/data", "--quiet")
        code, said = lab(*write, volumes={data: {"bind": "/workspace/data", "mode": "rw"}})
        assert code == 0, said
        yield {data: {"bind": "/workspace/data", "mode": "ro"}}


@pytest.fixture
def models(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    with volumes(client, "models") as (name,):
        yield {name: {"bind": "/workspace/models", "mode": "rw"}}


@pytest.mark.parametrize("smoke", [True, False] if FULL else [True], ids=lambda smoke: "smoke" if smoke else "full")
def test_01_trains_a_model_that_is_still_there_in_the_next_lab(
    client: docker.DockerClient, lab: Lab, textures: dict[str, Any], models: dict[str, Any], smoke: bool
) -> None:
    mounts = {**textures, **models}
    notebook = executed(client, "01_first_defect_model.ipynb", mounts=mounts, smoke=smoke)
    assert pictures(notebook) == 6
    text = printed(notebook)
    assert "profile       cpu" in text
    assert "CPUs          2" in text
    assert len(re.findall(r"asked for .* false alarms: \d+ of \d+ .* came; \d+ of \d+ defects caught", text)) == 3
    assert text.rstrip().endswith("All checks passed; the memory is free again.")
    # Twice the promise, because this machine may be doing something else, too.
    assert notebook.metadata.seconds < 2 * (60 if smoke else 240)

    name = f"ana-first-defect-model-textures{'-smoke' if smoke else ''}"
    script = f"""
import json
from defectlab import data, store
model, inside = store.load("/workspace/models/{name}.pt")
card = json.load(open("/workspace/models/{name}.json"))
assert inside["metrics"] == card["metrics"] and inside["threshold"] == card["threshold"]
assert card["data"]["digest"] == data.load("/workspace/data/textures", progress=False).digest
print(json.dumps(card))
"""
    code, said = lab("python", "-c", script, volumes=mounts)
    assert code == 0, said
    card = json.loads(said)
    assert card["data"]["licence"] == "CC0-1.0"
    assert card["metrics"]["auroc"] > (0.6 if smoke else 0.99)
    assert [entry["asked"] for entry in card["metrics"]["at_false_alarm_rate"]] == [0.01, 0.05, 0.1]


def test_01_runs_on_the_solar_cells_too(client: docker.DockerClient, elpv: Path, models: dict[str, Any]) -> None:
    mounts = {str(elpv): {"bind": "/workspace/data", "mode": "ro"}, **models}
    change = ('DATA = "textures"', 'DATA = "elpv"')
    notebook = executed(client, "01_first_defect_model.ipynb", *change, mounts=mounts, smoke=True)
    assert "licence CC-BY-NC-SA-4.0" in printed(notebook)


def test_01_without_its_data_says_what_to_do(client: docker.DockerClient) -> None:
    notebook = execute(client, "01_first_defect_model.ipynb", smoke=True)
    asked = "There is no data set in /workspace/data/textures: your admin installs one with `gpulab data get`."
    assert asked in notebook.metadata.error

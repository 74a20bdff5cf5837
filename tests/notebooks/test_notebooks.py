"""The starter notebooks: paired, stripped, short, and executed in the lab image as an engineer would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import jupytext
import nbformat
import pytest

from tests.notebooks.conftest import Lab
from tests.notebooks.image import IMAGE, PREDICTIVE, REPO, execute, volumes

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


def executed(
    client: docker.DockerClient, name: str, *changes: str, mounts: dict[str, Any], smoke: bool, image: str = IMAGE
) -> nbformat.NotebookNode:
    """Execute without an error and without a warning."""
    notebook = execute(client, name, *changes, mounts=mounts, smoke=smoke, image=image)
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


def reading(folder: Path) -> dict[str, Any]:
    """A folder of data sets, read-only as a lab has it."""
    return {str(folder): {"bind": "/workspace/data", "mode": "ro"}}


@pytest.fixture
def models(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    with volumes(client, "models") as (name,):
        yield {name: {"bind": "/workspace/models", "mode": "rw"}}


@dataclass(frozen=True)
class Expected:
    """What a notebook shows when it runs.

    Attributes:
        pictures: how many plots, in the short run.
        seconds: what it may take in the short run and in full, on a machine that is doing something else, too.
        says: patterns that its output holds, in the short run as in full.
        last: its last line.
        data: the data set that it reads.
        image: the image that it is for.
    """

    pictures: int
    seconds: tuple[int, int]
    says: tuple[str, ...]
    last: str = "All checks passed."
    data: str = "textures"
    image: str = IMAGE


EXPECTED = {
    "00_your_lab": Expected(
        1,
        (45, 120),
        (
            r"profile +cpu",
            r"CPUs +2\b",
            r"ends +when you stop it: this is not a lab that a hub started",
            r"/home/engineer +.*read and write",
            r"/workspace/data: Read-only file system\. Ask your admin",
            r"not tried; the limit is 4\.0 GiB",
            r"0 GPUs for PyTorch .*; computing on cpu",
        ),
    ),
    "01_first_defect_model": Expected(
        6,
        (90, 900),
        (
            r"profile +cpu",
            r"CPUs +2\b",
            r"a constant +AUROC 0\.500",
            r"(asked for .* false alarms: \d+ of \d+ .* came; \d+ of \d+ defects caught.*\n){3}",
            r"frozen features, validation: AUROC 0\.\d+",
            r"validation, one side +AUROC [01]\.\d+, recall at 1 % false alarms [01]\.\d+",
            r"validation, four sides +AUROC [01]\.\d+",
            r"by image \d\.\d+ to \d\.\d+ +by tile \d\.\d+ to \d\.\d+",
        ),
        last="All checks passed; the memory is free again.",
    ),
    "02_elpv_benchmark": Expected(
        6,
        (90, 900),
        (
            r"licence CC-BY-NC-SA-4\.0",
            r"AUROC \d+\.\d% \(95% interval .*\); in the first round alone \d+\.\d%",
            r"accuracy \d+\.\d% \(95% interval .*\): recall \d+\.\d% at \d+\.\d% false alarms",
            r"nearest neighbour within \d+ places: \d+% of the cells; by chance \d\.\d%",
            r"AUROC by blocks \d+\.\d% \(95% interval",
            r"(random|blocks)_1_percent +\d+\.\d% \(95% interval",
            r"at random, sure labels only +80\.0%: \d+%",
        ),
        last="All checks passed; the memory is free again.",
        data="elpv",
    ),
    "03_unsupervised_anomaly": Expected(
        5,
        (60, 600),
        (
            r"brick +to learn from: \d+ good parts; for the threshold: \d+",
            r"image AUROC 0\.\d+ \(0\.\d+ to [01]\.\d+, tile by tile\)",
            r"asked for 1\.0% false alarms: \d+ of \d+",
            r"as chosen +brick [01]\.\d+ +grass [01]\.\d+ +gravel [01]\.\d+ +mean 0\.\d+",
            r"pixel AUROC 0\.\d+, PRO 0\.\d+",
            r"anomalib is not installed here, so nothing was compared\.",
        ),
    ),
    "04_amp": Expected(
        4,
        (60, 600),
        (
            r"ResNet-50 has 25\.6 million parameters",
            r"def autocast",
            r"fp32: works here",
            r"tf32: is not for this device here",
            r"bf16, channels last +\d+\.\d images/s +\d+\.\d+ times +\d+ MB kept",
            r"fp16, channels last .* AUROC [01]\.\d+ \([01]\.\d+ to [01]\.\d+\)",
            r"fp32: +\d+\.\d+ TFLOP/s",
            r"No GPU here: the claim and the bar were not measured yet",
        ),
    ),
    "05_ddp": Expected(
        3,
        (150, 600),
        (
            r"0 GPUs, 2 CPUs: up to 2 ranks on CPUs",
            r"epoch 1, not told: rank 0 sees",
            r"3\.6 times on 4 GPUs was not measured yet",
            r"ms per all-reduce over 2 ranks",
            r"ddp: PyTorch has SyncBatchNorm for GPUs alone",
            r"going on after epoch 1",
            r"restarts: 1; losses",
            r"all weights equal to the bit: True",
        ),
    ),
    "06_export_and_latency": Expected(
        2,
        (150, 600),
        (
            r"the network is from a short training; alarm from",
            r"AOTInductor (is left out: this is a trial run|.* 0 flips)",
            r"(ONNX|torch\.export|TorchScript \(legacy\)) .* MB   scores differ by \d\.\de-0[5-9], .* 0 flips",
            r"ONNX int8 +\d\.\d MB, AUROC 0\.\d+",
            r"224 px, one thread +p50 +\d+\.\d+ ms",
            r"after the threshold was changed: .*was changed",
        ),
    ),
    "07_bearing_vibration": Expected(
        8,
        (60, 60),
        (
            r"healthy +3 records, +18\.0 s at \[97656\.0\] samples per second",
            r"outer race +envelope +outer race +\d\d\.\d times, inner race +\d\.\d times",
            r"(part \d: threshold \d\.\d, learnt from \d+ records, judged \d\n){3}",
            r"rule of two numbers: 156 of 156 windows, 20 of 20 records named rightly",
            r"forest on all: 1\d\d of 156 windows, 1\d of 20 records named rightly",
            r"healthy records left alone +3 of +3: the true rate may be 29\.2% to 100\.0%",
        ),
        last="All checks passed; the memory is free again.",
        data="bearings",
        image=PREDICTIVE,
    ),
    "08_process_drift": Expected(
        6,
        (60, 60),
        (
            r"525,600 minutes, 92% of them with data",
            r"beam +0\.\d+ +0\.\d+ → 0\.\d+ \(\d\.\d times\)",
            r"CUSUM +first alarm after \d+ watched days",
            r"flow meter loses 3 % +-3\.0% of the day's energy",
            r"as it is +renewed monthly +last ten days -0\.\d%, no alarm",
        ),
        last="All checks passed; the memory is free again.",
        data="solar-thermal",
        image=PREDICTIVE,
    ),
    "09_label_and_improve": Expected(
        4,
        (90, 600),
        (
            r"\d+ of \d+ training labels are wrong; \d+ of them are overlooked defects",
            r"\d+ of \d+ labels looked at were wrong \(\d+\.\d%, 95% interval .*; looking anywhere finds 20\.0%\)",
            r"wrong labels: \d+ before, \d+ afterwards; the file of labels is at version \d+",
            r"(.*AUROC 0\.\d+; asked for 5\.0% false alarms: \d+ of \d+.*\n){5}",
            r"hard cases against by lot +auroc [+-]0\.\d+ \([+-]0\.\d+ to [+-]0\.\d+\)",
        ),
        last="All checks passed; the memory is free again.",
    ),
}


def test_every_notebook_has_its_expectations() -> None:
    assert set(EXPECTED) == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("smoke", [True, False] if FULL else [True], ids=lambda smoke: "smoke" if smoke else "full")
@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs_from_its_first_to_its_last_cell(
    client: docker.DockerClient,
    textures: dict[str, Any],
    fetched: Callable[[str], Path],
    models: dict[str, Any],
    name: str,
    smoke: bool,
) -> None:
    expected = EXPECTED[name]
    data = textures if expected.data == "textures" else reading(fetched(expected.data))
    notebook = executed(client, f"{name}.ipynb", mounts={**data, **models}, smoke=smoke, image=expected.image)
    text = printed(notebook)
    missing = [pattern for pattern in expected.says if not re.search(pattern, text)]
    assert not missing, f"{missing} in\n{text}"
    assert text.rstrip().splitlines()[-1] == expected.last
    assert pictures(notebook) == expected.pictures
    assert notebook.metadata.seconds < expected.seconds[0 if smoke else 1]


def test_01_trains_a_model_that_is_still_there_in_the_next_lab(
    client: docker.DockerClient, lab: Lab, textures: dict[str, Any], models: dict[str, Any]
) -> None:
    mounts = {**textures, **models}
    executed(client, "01_first_defect_model.ipynb", mounts=mounts, smoke=True)
    script = """
import json
from defectlab import data, store
place = "/workspace/models/ana-first-defect-model-textures-smoke"
model, inside = store.load(place + ".pt")
card = json.load(open(place + ".json"))
assert inside["metrics"] == card["metrics"] and inside["threshold"] == card["threshold"]
assert card["data"]["base_digest"] == data.load("/workspace/data/textures", progress=False).digest
print(json.dumps(card))
"""
    code, said = lab("python", "-c", script, volumes=mounts)
    assert code == 0, said
    card = json.loads(said)
    assert card["data"]["licence"] == "CC0-1.0"
    assert card["metrics"]["auroc"] > 0.6
    assert [entry["asked"] for entry in card["metrics"]["at_false_alarm_rate"]] == [0.005, 0.01, 0.05]


def test_01_runs_on_the_solar_cells_too(client: docker.DockerClient, elpv: Path, models: dict[str, Any]) -> None:
    mounts = {**reading(elpv), **models}
    change = ('DATA = "textures"', 'DATA = "elpv"')
    notebook = executed(client, "01_first_defect_model.ipynb", *change, mounts=mounts, smoke=True)
    assert "licence CC-BY-NC-SA-4.0" in printed(notebook)


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected.image == PREDICTIVE])
def test_one_for_predictive_maintenance_without_its_data_says_what_to_do(client: docker.DockerClient, name: str) -> None:
    notebook = execute(client, f"{name}.ipynb", smoke=True, image=PREDICTIVE)
    asked = f"There is no data set in /workspace/data/{EXPECTED[name].data}: your admin installs one with `gpulab data get`."
    assert asked in notebook.metadata.error


def test_08_in_another_image_names_the_profile_that_it_needs(client: docker.DockerClient, textures: dict[str, Any]) -> None:
    notebook = execute(client, "08_process_drift.ipynb", mounts=textures, smoke=True)
    assert "start a lab with the profile 'Predictive maintenance'" in notebook.metadata.error


def test_01_without_its_data_says_what_to_do(client: docker.DockerClient) -> None:
    notebook = execute(client, "01_first_defect_model.ipynb", smoke=True)
    asked = "There is no data set in /workspace/data/textures: your admin installs one with `gpulab data get`."
    assert asked in notebook.metadata.error

"""The data sets that are no images, fetched as `gpulab data get` fetches them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from spawner import datasets
from tests.notebooks.conftest import Lab


def test_bearings_are_the_twenty_known_records(fetched: Callable[[str], Path], lab: Lab) -> None:
    folder = fetched("bearings") / "bearings"
    records = json.loads((folder / "index.json").read_text())["records"]
    assert Counter((record["condition"], record["sampling_rate_hz"]) for record in records) == {
        ("healthy", 97656.0): 3,
        ("outer race", 97656.0): 3,
        ("outer race", 48828.0): 7,
        ("inner race", 48828.0): 7,
    }
    assert {(record["bpfo_hz"], record["bpfi_hz"], record["shaft_hz"]) for record in records} == {(81.125, 118.875, 25.0)}
    assert datasets.problems(folder) == []
    judge(lab, folder, "Bearings on a test rig: vibration records of MFPT, licence CC-BY-NC-SA-4.0")


def test_solar_thermal_is_a_year_of_minutes_of_two_plants(fetched: Callable[[str], Path], lab: Lab) -> None:
    folder = fetched("solar-thermal") / "solar-thermal"
    for plant in json.loads((folder / "index.json").read_text("utf-8"))["plants"]:
        with (folder / plant["file"]).open("rb") as file:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
            assert 0 <= lines - plant["minutes"] - plant["skip_lines"] <= 1
        with (folder / plant["file"]).open(encoding="utf-8") as file:
            header = [next(file) for _ in range(plant["skip_lines"] + 1)][-1]
        assert header.split(plant["separator"])[0].strip() == plant["time"]
        assert json.loads((folder / plant["config"]).read_text("utf-8"))
    assert datasets.problems(folder) == []
    judge(lab, folder, "Two solar-thermal plants, a year of minutes each, licence CC-BY-SA-4.0")


def judge(lab: Lab, folder: Path, words: str) -> None:
    """The library in the image reads what the host wrote."""
    mounts = {str(folder.parent): {"bind": "/workspace/data", "mode": "ro"}}
    code, said = lab("python", "-m", "defectlab", "data", "verify", f"/workspace/data/{folder.name}", volumes=mounts)
    assert code == 0, said
    assert words in said

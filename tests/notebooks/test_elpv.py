"""The real electroluminescence images, fetched as `gpulab data get elpv` fetches them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from tests.notebooks.conftest import Lab


def test_elpv_has_all_images_and_the_published_labels(elpv: Path) -> None:
    folder = elpv / "elpv"
    with (folder / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((folder / "images").iterdir())) == 2624
    # ref: Deitsch et al. 2019, counts by the experts' probability
    assert Counter((row["probability"], row["kind"], row["defective"]) for row in rows) == {
        ("0.00", "functional", "0"): 1508,
        ("0.33", "likely functional", "0"): 295,
        ("0.67", "likely defective", "1"): 106,
        ("1.00", "defective", "1"): 715,
    }
    assert {row["source"] for row in rows} == {"mono", "poly"}
    assert "NonCommercial" in (folder / "LICENCE.md").read_text("utf-8")
    assert all((folder / row["file"]).is_file() for row in rows)


def test_the_library_in_the_image_reads_what_the_host_wrote(elpv: Path, lab: Lab) -> None:
    mounts = {str(elpv): {"bind": "/workspace/data", "mode": "ro"}}
    code, said = lab("python", "-m", "defectlab", "data", "verify", "/workspace/data/elpv", volumes=mounts)
    assert code == 0, said
    assert "Solar cells in electroluminescence, 2624 images, 821 defective, licence CC-BY-NC-SA-4.0" in said
    script = """
from defectlab import data
images = data.load("/workspace/data/elpv", size=96, progress=False)
parts = data.split(images)
print(images, "|", [len(part) for part in (parts.train, parts.validation, parts.test)], len(data.leaks(parts)))
"""
    code, said = lab("python", "-c", script, volumes=mounts)
    assert code == 0, said
    assert "2624 images of 96 × 96: 1803 good, 821 defective, from 44 groups" in said
    assert said.strip().endswith(" 0")

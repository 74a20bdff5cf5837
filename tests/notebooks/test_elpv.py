"""The real electroluminescence images, fetched as `gpulab data get elpv` fetches them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from spawner import datasets
from tests.support.hub import make_lab_files


def test_elpv_has_all_images_and_the_published_labels(tmp_path: Path):
    from spawner import labfile

    config = labfile.load(make_lab_files(tmp_path).yaml)

    def no_container(*_args: object, **_options: object) -> tuple[int, str]:
        raise AssertionError("ELPV needs no container")

    said = datasets.get("elpv", config, no_container, accept_licence=datasets.ELPV_LICENCE)
    assert "not for commercial use" in said
    folder = config.mounts.datasets / "elpv"
    with (folder / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((folder / "images").iterdir())) == 2624
    # ref: Deitsch et al. 2019, counts by the experts' probability
    assert sorted(Counter(row["probability"] for row in rows).values()) == sorted([1508, 295, 106, 715])
    assert Counter(row["kind"] for row in rows) == {
        "functional": 1508,
        "likely functional": 295,
        "likely defective": 106,
        "defective": 715,
    }
    assert {row["source"] for row in rows} == {"mono", "poly"}
    assert "NonCommercial" in (folder / "LICENCE.md").read_text("utf-8")
    assert all((folder / row["file"]).is_file() for row in rows)

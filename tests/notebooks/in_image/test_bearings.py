from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from defectlab import bearings
from defectlab.folders import DataError
from hypothesis import given
from hypothesis import strategies as st
from scipy import io


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two records as the host lays them down."""
    (tmp_path / "records").mkdir()
    (tmp_path / "dataset.json").write_text('{"format": 1, "name": "bearings"}')
    entries = []
    for name, condition in (("baseline_1", "healthy"), ("OuterRaceFault_1", "outer race")):
        inside = {"gs": np.arange(100.0), "sr": 1000.0, "load": 5.0, "rate": 25.0}
        io.savemat(tmp_path / "records" / f"{name}.mat", {"bearing": inside})
        entries.append(
            {"name": name, "file": f"records/{name}.mat", "condition": condition, "sampling_rate_hz": 1000.0, "shaft_hz": 25.0,
             "load_lb": 5.0, "samples": 100, "bpfo_hz": 81.125, "bpfi_hz": 118.875}
        )  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "records": entries}))
    return tmp_path


def test_records_are_read_with_what_is_known_of_them(folder: Path) -> None:
    healthy, outer = bearings.load(folder)
    assert (healthy.name, healthy.condition, healthy.rate, healthy.seconds) == ("baseline_1", bearings.HEALTHY, 1000.0, 0.1)
    assert (outer.condition, outer.outer, outer.inner, outer.shaft, outer.load) == (bearings.OUTER, 81.125, 118.875, 25.0, 5.0)
    assert outer.samples.tolist() == list(range(100))


def test_what_cannot_be_read_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="your admin installs one"):
        bearings.load(tmp_path / "nowhere")
    (folder / "records" / "baseline_1.mat").write_bytes(b"no such format")
    with pytest.raises(DataError, match="names the bad file"):
        bearings.load(folder)
    (folder / "index.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="names the bad file"):
        bearings.load(folder)


@given(st.lists(st.sampled_from(bearings.CONDITIONS), max_size=40), st.integers(2, 4), st.integers(0, 100))
def test_folds_hold_every_condition(more: list[str], parts: int, seed: int) -> None:
    conditions = [*bearings.CONDITIONS * parts, *more]
    found = bearings.folds(conditions, parts, seed=seed)
    for part in range(parts):
        assert {conditions[n] for n in np.flatnonzero(found == part)} == set(bearings.CONDITIONS)
    for condition in bearings.CONDITIONS:
        sizes = np.bincount(found[np.array(conditions) == condition], minlength=parts)
        assert sizes.max() - sizes.min() <= 1


def test_too_few_records_of_a_condition_are_refused() -> None:
    with pytest.raises(ValueError, match="2 records of 'healthy', too few for 3 parts"):
        bearings.folds(["healthy", "healthy", "outer race", "outer race", "outer race"], 3)

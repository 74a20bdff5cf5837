from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from defectlab import figures
from defectlab.metrics import Estimate
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(st.characters(categories=["L", "N"], include_characters=" _"), min_size=1, max_size=12)
NUMBERS = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


def test_numbers_estimates_and_one_level_of_names_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    told = {
        "seed": 0,
        "right": np.bool_(True),
        "auroc": Estimate(0.99, 0.98, 0.995),
        "p99_ms": {"ONNX": np.float32(12.5), "one": Estimate(1.0, 0.5, torch.tensor(2.0))},
    }
    found = figures.record(told, {"GPULAB_FIGURES": str(file)})
    assert found == {
        "seed": 0, "right": 1, "auroc.value": 0.99, "auroc.low": 0.98, "auroc.high": 0.995, "p99_ms.ONNX": 12.5,
        "p99_ms.one.value": 1.0, "p99_ms.one.low": 0.5, "p99_ms.one.high": 2.0,
    }  # fmt: skip
    assert json.loads(file.read_text()) == found
    assert capsys.readouterr().out.splitlines()[4] == "auroc.high        0.995"


def test_nothing_is_written_where_nobody_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert figures.record({"seed": 1}, {}) == {"seed": 1}
    assert not list(tmp_path.iterdir())


@given(st.dictionaries(NAMES, NUMBERS, max_size=5))
def test_what_is_written_is_what_was_measured(told: dict[str, float]) -> None:
    found = figures.record(told, {})
    assert json.loads(json.dumps(found)) == {name: value for name, value in told.items()}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "0.99", None, [0.5], {"deeper": {"still": 1.0}}])
def test_what_is_no_number_is_refused_and_nothing_is_written(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        figures.record({"fine": 1, "level": {"a": 1}, "wrong": wrong}, {"GPULAB_FIGURES": str(tmp_path / "figures.json")})
    assert not list(tmp_path.iterdir())

"""The figures of a notebook, for those who quote them.

Owns what a notebook's last cell tells of its run: numbers under names, printed as a short table and, where the environment
variable GPULAB_FIGURES names a file, written there. Never rounds, never takes a number that is none, and never decides what may
be said with it.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from defectlab import files

_OF_AN_ESTIMATE = ("value", "low", "high")


def record(figures: Mapping[str, Any], env: Mapping[str, str] | None = None) -> dict[str, float]:
    """Tell the figures of a run, and keep them where somebody asked for that.

    Args:
        figures: numbers and estimates (anything with `value`, `low` and `high`) by name; or, one level down, by name and name.
            Units belong into the name (`p99_ms`, `seconds`, `peak_bytes`); rates are between 0 and 1.
        env: environment; the process's own where not given.

    Returns:
        All numbers by their full names, such as `p99_ms.ONNX` and `auroc.low`.

    Raises:
        ValueError: something is not a number, or not a finite one.
    """
    found = dict(_flat(figures, ""))
    width = max((len(name) for name in found), default=0)
    for name, value in found.items():
        print(f"{name:{width}}  {value:g}")
    where = (os.environ if env is None else env).get("GPULAB_FIGURES")
    if where:
        files.replace(Path(where), f"{json.dumps(found, indent=1)}\n".encode())
    return found


def _flat(figures: Mapping[str, Any], above: str) -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and above.count(".") < 1:
            yield from _flat(value, f"{name}.")
        elif all(hasattr(value, part) for part in _OF_AN_ESTIMATE):
            yield from ((f"{name}.{part}", _number(f"{name}.{part}", getattr(value, part))) for part in _OF_AN_ESTIMATE)
        else:
            yield name, _number(name, value)


def _number(name: str, value: Any) -> float:
    if hasattr(value, "item"):
        # A number of NumPy or PyTorch.
        value = value.item()
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"The figure {name!r} is {value!r}, which is not a finite number: leave it out, or say what it is.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)

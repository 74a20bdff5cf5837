"""Vibration records of bearings, as `gpulab data get bearings` lays them down.

Owns reading them, and splits that keep a record in one part. Never computes anything from a signal (`signals` does).

    index.json       one entry per record: file, condition, sampling rate, load, and the bearing's fault frequencies
    records/NAME.mat the signal, in g
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import io

from defectlab import folders
from defectlab.folders import DataError

HEALTHY, OUTER, INNER = "healthy", "outer race", "inner race"
CONDITIONS = (HEALTHY, OUTER, INNER)


@dataclass(frozen=True, slots=True)
class Recording:
    """One record: a sensor on a bearing for some seconds.

    Attributes:
        name: such as `OuterRaceFault_3`.
        condition: one of `CONDITIONS`.
        rate: samples per second.
        load: in pounds, as the rig's makers give it.
        shaft: turns per second.
        outer, inner: how often a second a rolling element passes a damage of the outer and of the inner race.
        samples: acceleration in g.
    """

    name: str
    condition: str
    rate: float
    load: float
    shaft: float
    outer: float
    inner: float
    samples: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def load(folder: Path | str) -> tuple[Recording, ...]:
    """All records of a folder, in the order of the index.

    Raises:
        DataError: there is no data set, or a file of it cannot be read.
    """
    folder = Path(folder)
    folders.describe(folder)
    try:
        listed = json.loads((folder / "index.json").read_text("utf-8"))["records"]
        return tuple(_read(folder, entry) for entry in listed)
    # SciPy raises many kinds for a file that is not MATLAB's, or is half of one.
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        NotImplementedError,
        io.matlab.MatReadError,
        zlib.error,
    ) as error:
        raise DataError(f"The records in {folder} cannot be read ({error}): `gpulab data verify` names the bad file.") from None


def folds(conditions: Sequence[str], parts: int = 3, *, seed: int = 0) -> NDArray[np.intp]:
    """A part for each record, so that every condition is in every part.

    Args:
        conditions: one per record.
        parts: how many; no condition may have fewer records.
        seed: decides which record goes where.

    Raises:
        ValueError: a condition has fewer records than there are parts.
    """
    names = np.asarray(conditions)
    found = np.empty(len(names), dtype=np.intp)
    rng = np.random.default_rng(seed)
    for name in sorted(set(conditions)):
        members = rng.permutation(np.flatnonzero(names == name))
        if len(members) < parts:
            raise ValueError(f"There are {len(members)} records of {name!r}, too few for {parts} parts.")
        found[members] = np.arange(len(members)) % parts
    return found


def _read(folder: Path, entry: dict[str, object]) -> Recording:
    numbers = {key: float(str(entry[key])) for key in ("sampling_rate_hz", "load_lb", "shaft_hz", "bpfo_hz", "bpfi_hz")}
    condition = str(entry["condition"])
    if condition not in CONDITIONS:
        raise ValueError(f"{entry['name']} has the unknown condition {condition!r}")
    inside = io.loadmat(folder / str(entry["file"]), squeeze_me=True, struct_as_record=False)["bearing"]
    return Recording(
        name=str(entry["name"]),
        condition=condition,
        rate=numbers["sampling_rate_hz"],
        load=numbers["load_lb"],
        shaft=numbers["shaft_hz"],
        outer=numbers["bpfo_hz"],
        inner=numbers["bpfi_hz"],
        samples=np.asarray(inside.gs, dtype=np.float64),
    )

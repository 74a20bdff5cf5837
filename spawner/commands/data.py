"""`gpulab data`: lists, installs and checks the data sets of every lab's `/workspace/data`, and folders of one's own images.

Owns the commands' words. Never knows a data set (`spawner.datasets` does), and never accepts a licence for anybody.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spawner import datasets, labfile, sheets
from spawner.engine import Engine
from spawner.errors import DatasetError
from spawner.model import LabConfig

# As many bad files as one reads before one begins to mend.
MOST_TOLD = 20


def add_to(commands: Any) -> None:
    """Add the commands' words to the grammar."""
    parser = commands.add_parser("data", help="list, install and check data sets", allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    known = verbs.add_parser("list", help="list the data sets: what for, licence, size, installed or not", allow_abbrev=False)
    known.add_argument("--json", action="store_true", help="print JSON")
    known.set_defaults(run=run_list)
    get = verbs.add_parser("get", help="install a data set; one that is there already stays as it is", allow_abbrev=False)
    get.add_argument("name", metavar="NAME", help=f"one of: {', '.join(datasets.NAMES)}")
    asking = [entry.name for entry in datasets.ENTRIES if entry.asks]
    get.add_argument(
        "--accept-licence",
        metavar="LICENCE",
        default="",
        help=f"say that you accept the licence, which is recorded; {' and '.join(asking)} need {datasets.ELPV_LICENCE}",
    )
    get.set_defaults(run=run_get)
    verify = verbs.add_parser(
        "verify", help="compare data sets with their checksums, or look through a folder of your own images", allow_abbrev=False
    )
    verify.add_argument(
        "what", metavar="NAME|FOLDER", nargs="?", default="", help="a data set or a folder; else all data sets that are installed"
    )
    verify.add_argument("--layout", choices=datasets.LAYOUTS, default="", help="how the folder is laid out; else it is found out")
    verify.set_defaults(run=run_verify)


def run_list(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """List the catalogue.

    Raises:
        LabError: lab.yaml cannot be read.
    """
    folder = labfile.load(words.config, env).mounts.datasets
    found = datasets.listed(folder)
    if words.json:
        print(json.dumps({"folder": str(folder), "data_sets": [state.as_json() for state in found]}, indent=2))
        return 0
    rows = [("NAME", "INSTALLED", "SIZE", "LICENCE", "SOURCE", "CHECKSUM", "WHAT FOR")]
    for state in found:
        entry = state.entry
        licence = f"{entry.licence}{' (to be accepted)' if entry.asks and not state.accepted else ''}"
        size = f"{entry.size / 1e6:.0f} MB"
        there = "yes" if state.installed else "no"
        rows.append((entry.name, there, size, licence, entry.source, state.checksum[:12] or "-", entry.purpose))
    print(sheets.table(rows))
    return 0


def run_get(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Install a data set.

    Raises:
        LabError: there is no such data set, its licence is not accepted, or it cannot be had or written.
    """
    config = labfile.load(words.config, env)
    engine = Engine()
    try:
        print(datasets.get(words.name, config, engine.run_once, accept_licence=words.accept_licence))
    finally:
        engine.close()
    return 0


def run_verify(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Compare with checksums, or look through a folder.

    Raises:
        LabError: something is wrong with a file, or there is nothing to look at.
    """
    config = labfile.load(words.config, env)
    if not words.what and not words.layout:
        whole = [state.folder for state in datasets.listed(config.mounts.datasets) if state.installed]
        if not whole:
            raise DatasetError("No data set is installed.", "See `gpulab data list`.")
        damaged = [folder.name for folder in whole if not _is_whole(folder)]
        if damaged:
            raise DatasetError(f"Damaged: {', '.join(damaged)}.", "Move the folder away and run `gpulab data get` again.")
        return 0
    folder = _folder(words.what, config)
    if not words.layout and (folder / "SHA256SUMS").is_file():
        if not _is_whole(folder):
            raise DatasetError(f"{folder} is damaged.", "Move the folder away and run `gpulab data get` again.")
        return 0
    return _look_through(folder, words.layout, config)


def _folder(what: str, config: LabConfig) -> Path:
    """The folder that a word means: a data set's by its name, else a path."""
    if what in datasets.NAMES:
        folder = config.mounts.datasets / what
        if not folder.is_dir():
            raise DatasetError(f"The data set {what} is not installed.", f"Run: gpulab data get {what}")
        return folder
    folder = Path(what).absolute()
    try:
        there = bool(what) and folder.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        names = ", ".join(datasets.NAMES)
        raise DatasetError(f"{what[:200]!r} is neither a data set nor a folder.", f"Data sets are: {names}.")
    return folder


def _is_whole(folder: Path) -> bool:
    found = datasets.problems(folder)
    _tell([f"{folder / problem}" for problem in found] or [f"{folder} is as it was installed."])
    return not found


def _look_through(folder: Path, layout: str, config: LabConfig) -> int:
    engine = Engine()
    try:
        well, lines = datasets.check_layout(folder, layout, config, engine.run_once)
    finally:
        engine.close()
    if well:
        _tell(lines)
        return 0
    _tell(lines[:-1])
    raise DatasetError(lines[-1])


def _tell(lines: list[str]) -> None:
    for line in lines[:MOST_TOLD]:
        # Files' names are somebody else's text: nothing that moves a cursor.
        print("".join(c if c.isprintable() else "?" for c in line))
    if len(lines) > MOST_TOLD:
        print(f"… and {len(lines) - MOST_TOLD} more")

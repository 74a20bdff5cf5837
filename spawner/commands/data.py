"""`gpulab data get`: puts a data set where every lab sees it, under `/workspace/data`.

Owns the command's words. Never knows a data set (`spawner.datasets` does), and never accepts a licence for anybody.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from spawner import datasets, labfile
from spawner.engine import Engine


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("data", help="install data sets", allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    get = verbs.add_parser("get", help="install a data set; one that is there already stays as it is", allow_abbrev=False)
    get.add_argument("name", metavar="NAME", help=f"one of: {', '.join(datasets.NAMES)}")
    get.add_argument(
        "--accept-licence",
        metavar="LICENCE",
        default="",
        help=f"say that you accept the licence; elpv needs {datasets.ELPV_LICENCE}",
    )
    get.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
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

"""`gpulab config check`: says whether lab.yaml is right.

Owns the command's words. Never changes the file, and asks nothing but the file: `gpulab doctor` looks at the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from spawner import labfile


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("config", help="look at lab.yaml", allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    check = verbs.add_parser("check", help="say whether lab.yaml is right, or what is wrong in which line", allow_abbrev=False)
    check.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Check lab.yaml.

    Raises:
        ConfigError: it is not right.
    """
    config = labfile.load(words.config, env)
    print(f"{words.config} is right: lab {config.name}, profiles {', '.join(config.profiles)}.")
    return 0

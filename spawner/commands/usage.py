"""`gpulab usage`: who used how many GPU-hours, how many of them idle, how long they waited, and what was refused.

Owns the command's words. Never sums up itself (`spawner.usage` does), never changes the ledger, and works also while the hub is
down.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from spawner import periods, sheets, usage
from spawner.commands.gpus import opened
from spawner.errors import LabError
from spawner.inventory import detect
from spawner.labfile import load
from spawner.model import LabConfig
from spawner.sharing import units


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("usage", help="say who used how many GPU-hours", allow_abbrev=False)
    add_period(parser)
    parser.add_argument("--by", choices=usage.BY, default="user", help="what the sums are for (default: user)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="print CSV")
    shape.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def add_period(parser: argparse.ArgumentParser) -> None:
    """Add the options of a period."""
    default = periods.DEFAULT
    parser.add_argument(
        "--since", metavar="TIME", default=default, help=f"begin: so long ago, as {periods.RULE}, in UTC (default: {default})"
    )
    parser.add_argument("--until", metavar="TIME", default="", help="end, written the same way (default: now)")


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the sums.

    Raises:
        LabError: a word is wrong, or lab.yaml or the ledger cannot be read.
    """
    config = load(words.config, env)
    span = periods.span(words.since, words.until, datetime.now(timezone.utc))
    seats = seats_of(config)
    sum_up = functools.partial(usage.report, words.by, span, seats=seats)
    with opened(config) as ledger:
        found = ledger.accounts(span, sum_up) if ledger else sum_up(())
    if words.json:
        print(json.dumps(sheets.as_json(found), indent=2))
    elif words.csv:
        print(sheets.as_csv(found), end="")
    else:
        print(sheets.text(found))
    return 0


def seats_of(config: LabConfig) -> dict[str, int]:
    """Device UUID → number of its seats today; none, with a word about it, where the driver cannot be asked."""
    if not config.gpus.sharing:
        return {}
    try:
        return {unit.device: unit.seats for unit in units(detect(config).gpus(), config.gpus.sharing) if unit.seats}
    except LabError as error:
        print(
            f"gpulab: Seats of shared GPUs count as if there were as few as their numbers show. {error.message}", file=sys.stderr
        )
        return {}

"""`gpulab audit`: prints the journal, in which every lease, ticket, mark and refusal stands with who did it and when.

Owns the command's words. Never changes the journal, which nobody can, and works also while the hub is down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from spawner import periods, present_events, sheets
from spawner.commands.gpus import opened
from spawner.commands.usage import add_period
from spawner.labfile import load
from spawner.ledger import Ledger
from spawner.records import Event
from spawner.usage import Span

PAGE = 1000


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("audit", help="print the journal: who had which GPU when, who changed what", allow_abbrev=False)
    add_period(parser)
    parser.add_argument("--user", metavar="NAME", default="", help="only what this person did, or what concerns them")
    parser.add_argument("--gpu", metavar="UUID", default="", help="only what concerns this GPU")
    parser.add_argument("--json", action="store_true", help="print JSON, one entry per line")
    parser.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the journal, oldest first.

    Raises:
        LabError: a word is wrong, or lab.yaml or the ledger cannot be read.
    """
    config = load(words.config, env)
    span = periods.span(words.since, words.until, datetime.now(timezone.utc))
    with opened(config) as ledger:
        found = list(entries(ledger, span, words.user, words.gpu)) if ledger else []
    found.reverse()
    if words.json:
        for event in found:
            print(json.dumps(present_events.as_json(event)))
    elif found:
        head = ("TIME", "BY", "WHAT", "WHOM", "GPUS", "DETAIL")
        print(sheets.table([head, *(present_events.cells(event) for event in found)]))
    else:
        print("Nothing happened in that time.")
    return 0


def entries(ledger: Ledger, span: Span, user: str, gpu: str) -> Iterator[Event]:
    """All entries, newest first, asked for in pages."""
    before = 0
    while page := ledger.audit(since=span.since, until=span.until, person=user, gpu=gpu, before=before, limit=PAGE):
        yield from page
        before = page[-1].number

"""`gpulab queue`: who waits for GPUs, in which order, and why.

Owns the table and its JSON. Never moves the line (`spawner.line` says whose turn it is, the hub's service gives claims), and
works also while the hub is down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spawner import expect, sharing, sheets
from spawner.commands.gpus import has_ledger
from spawner.grants import PRIORITIES
from spawner.labfile import load
from spawner.line import fair_shares
from spawner.records import Ticket, TicketState
from spawner.runtime import Lab, open_lab

_CLASSES = {number: word for word, number in PRIORITIES.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """One ticket as it is shown.

    Attributes:
        position: from 1; 0 for a ticket whose turn has come.
        note: what whoever gets it must know; may be empty.
        state: `waiting`, `claimed` or `starting`.
        gpu_hours: the person's share so far: GPU-hours that count less the older they are.
        expected: when its turn is expected, ISO 8601 in UTC; '' where it cannot be told.
        why: why it stands there, in one sentence.
    """

    position: int
    id: str
    holder: str
    profile: str
    gpus: int
    note: str
    state: str
    priority: str
    gpu_hours: float
    since: str
    waited_seconds: int
    expected: str
    why: str


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("queue", help="show who waits for GPUs, and why the line stands so", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the line.

    Raises:
        LabError: lab.yaml, the ledger or the driver cannot be asked.
    """
    found: list[Place] = []
    if has_ledger(load(words.config, env)):
        lab = open_lab(str(Path(words.config).resolve()))
        try:
            found = places(lab)
        finally:
            lab.ledger.close()
            open_lab.cache_clear()
    if words.json:
        print(json.dumps({"queue": [asdict(place) for place in found]}, indent=2))
    else:
        print(text(found))
    return 0


def places(lab: Lab) -> list[Place]:
    """The line as it stands: first those whose turn has come, then those that wait."""
    now = lab.clock()
    line = lab.ledger.line(lab.units(), now)
    plan = lab.plan(line)
    turns = expect.turns(plan.order, line.gpus, line.leases, lab.ledger.held_seconds(), now)
    due = {turn.ticket.id for turn in plan.turns}
    shares = fair_shares(line.shares, line.leases, now, lab.config.line.half_life)

    def place(position: int, ticket: Ticket) -> Place:
        expected = turns.get(ticket.id)
        return Place(
            position=position,
            id=ticket.id,
            holder=str(ticket.holder),
            profile=ticket.request.profile,
            gpus=ticket.request.gpus,
            note=sharing.note_of_kind(ticket.request.sharing),
            state=ticket.state.value,
            priority=_CLASSES.get(ticket.priority, str(ticket.priority)),
            gpu_hours=round(shares.get(ticket.holder.user, 0.0) / 3600, 2),
            since=ticket.created.isoformat(timespec="seconds"),
            waited_seconds=max(0, int((now - ticket.created).total_seconds())),
            expected=expected.isoformat(timespec="seconds") if position and expected else "",
            why=_why(ticket, plan.why.get(ticket.id, ""), due),
        )

    called = [ticket for ticket in lab.ledger.tickets() if ticket.state is not TicketState.WAITING]
    return [*(place(0, ticket) for ticket in called), *(place(n, ticket) for n, ticket in enumerate(plan.order, 1))]


def text(found: Sequence[Place]) -> str:
    """The line for a terminal: a table, and below it why each stands where it stands."""
    if not found:
        return "Nobody waits."
    lines = [("#", "HOLDER", "PROFILE", "GPUS", "STATE", "CLASS", "GPU-HOURS", "WAITED", "EXPECTED (UTC)")]
    for place in found:
        profile = f"{place.profile} ({place.note})" if place.note else place.profile
        expected = place.expected[:16].replace("T", " ") if place.expected else "-" if not place.position else "unknown"
        lines.append(
            (
                str(place.position or "-"), place.holder, profile, str(place.gpus), place.state, place.priority,
                f"{place.gpu_hours:.1f}", sheets.length(place.waited_seconds), expected,
            )
        )  # fmt: skip
    reasons = [f"{place.position or '-'}  {place.holder}: {place.why}" for place in found if place.why]
    rule = "Order: class, then who used fewer GPU-hours lately, then age; what an admin moved, or is overdue, goes before."
    return "\n".join([sheets.table(lines, right=(0, 3, 6)), "", *reasons, rule])


def _why(ticket: Ticket, planned: str, due: set[str]) -> str:
    if ticket.state is TicketState.CLAIMED:
        return "Its turn has come: GPUs are set aside for it, and its lab is about to start."
    if ticket.state is TicketState.STARTING:
        return "Its turn has come: its lab is starting."
    return planned or ("Its turn comes in a moment: GPUs are free for it." if ticket.id in due else "")

"""`gpulab gpus`: which GPUs there are, who holds them, and which are out of use.

Owns the table and its JSON. Never changes a lease and never says itself whether a GPU is free (`board` does, as for the page);
works also while the hub is down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spawner import sharing
from spawner.errors import LabError
from spawner.inventory import detect
from spawner.labfile import load
from spawner.ledger import Ledger
from spawner.model import Gpu, LabConfig, Lease
from spawner.pages.board import gpu_rows
from spawner.pages.board_views import GpuRow
from spawner.records import GpuMark


@dataclass(frozen=True, slots=True)
class Row:
    """One unit as it is shown: a GPU, a MIG instance, or a seat of a shared GPU.

    Attributes:
        uuid: its name in leases; of a seat the GPU's UUID, `#` and the seat's number.
        memory_mib: memory in MiB, of a seat its share; 0 where unknown.
        kind: `exclusive`, `mig` or `shared`.
        note: what whoever uses it must know; may be empty.
        state: `free`; `claimed`, `starting`, `leased` or `draining` where it is taken; `drained` or `sick` where it is given to
            nobody; `missing` for a leased one that the driver no longer lists.
        reason: why it is given to nobody new; '' where it is in use.
        holder: `user` or `user/server`; '' where nobody holds it.
        since: when the lease began, ISO 8601 in UTC; '' where there is none.
    """

    uuid: str
    node: str
    index: int
    model: str
    memory_mib: int
    simulated: bool
    kind: str
    note: str
    state: str
    reason: str
    holder: str
    profile: str
    since: str


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("gpus", help="list the GPUs, and who holds them", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the GPUs.

    Raises:
        LabError: lab.yaml, the ledger or the driver cannot be asked.
    """
    config = load(words.config, env)
    units = sharing.units(detect(config).gpus(), config.gpus.sharing)
    with opened(config) as ledger:
        rows = table(units, ledger.active() if ledger else (), ledger.marks() if ledger else ())
    if words.json:
        print(json.dumps({"gpus": [asdict(row) for row in rows]}, indent=2))
    else:
        print(text(rows))
    return 0


@contextmanager
def opened(config: LabConfig) -> Iterator[Ledger | None]:
    """The lab's ledger; None where no hub has made one yet, which this does not do either."""
    if not has_ledger(config):
        yield None
        return
    ledger = Ledger.open(config.ledger_url)
    try:
        yield ledger
    finally:
        ledger.close()


def has_ledger(config: LabConfig) -> bool:
    """Whether a hub has made the lab's ledger."""
    file = config.ledger_url.removeprefix("sqlite:///")
    return file == config.ledger_url or _exists(file)


def table(units: Sequence[Gpu], active: Iterable[Lease], marks: Iterable[GpuMark]) -> list[Row]:
    """Units, leases and marks, brought together."""
    known = {unit.uuid: unit for unit in units}
    return [_row(row, known.get(row.id)) for row in gpu_rows(units, active, marks, {})]


def text(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    if not rows:
        return "This lab has no GPUs."
    lines = [("UUID", "NODE", "GPU", "MODEL", "MEMORY", "KIND", "STATE", "HOLDER", "REASON")]
    for row in rows:
        memory = f"{row.memory_mib / 1024:.0f} GiB" if row.memory_mib else "-"
        index = str(row.index) if row.index >= 0 else "-"
        state = f"{row.state} (simulated)" if row.simulated else row.state
        kind = f"{row.kind} ({row.note})" if row.note else row.kind
        place = (row.uuid, row.node or "-", index, row.model or "-", memory)
        lines.append((*place, kind, state, row.holder or "-", row.reason or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _row(row: GpuRow, unit: Gpu | None) -> Row:
    # One that the driver does not list any more is known by its name only.
    kind = sharing.kind(unit) if unit else "shared" if "#" in row.id else "mig" if row.id.startswith("MIG-") else "exclusive"
    return Row(
        uuid=row.id,
        node=unit.node if unit else "",
        index=unit.index if unit else -1,
        model=row.model,
        memory_mib=row.memory_mib,
        simulated=row.simulated,
        kind=kind,
        note=sharing.NOT_ISOLATED if kind == "shared" else "",
        state="leased" if row.state == "held" else row.state,
        reason=row.out.words if row.out else "",
        holder=str(row.holder) if row.holder else "",
        profile=row.profile,
        since=row.since.isoformat(timespec="seconds") if row.since else "",
    )


def _exists(file: str) -> bool:
    try:
        return Path(file).exists()
    except OSError as error:
        raise LabError(f"The ledger {file} cannot be reached ({error.strerror}).", "Run this as its owner.") from None

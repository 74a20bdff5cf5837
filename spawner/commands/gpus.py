"""`gpulab gpus`: which GPUs there are, and who holds them.

Owns the table and its JSON. Never changes a lease, and works also while the hub is down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spawner.errors import LabError
from spawner.inventory import detect
from spawner.labfile import load
from spawner.ledger import Ledger
from spawner.model import Gpu, LabConfig, Lease, LeaseState

_STATES = {
    LeaseState.CLAIMED: "claimed",
    LeaseState.STARTING: "starting",
    LeaseState.BOUND: "leased",
    LeaseState.DRAINING: "draining",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One GPU as it is shown.

    Attributes:
        memory_mib: total memory in MiB; 0 where unknown.
        state: `free`, `claimed`, `starting`, `leased`, `draining`, or `missing` for a leased GPU that the driver no longer lists.
        holder: `user` or `user/server`; '' where nobody holds it.
        since: when the lease began, ISO 8601 in UTC; '' where there is none.
    """

    uuid: str
    node: str
    index: int
    model: str
    memory_mib: int
    simulated: bool
    state: str
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
    rows = table(detect(config).gpus(), leases(config))
    if words.json:
        print(json.dumps({"gpus": [asdict(row) for row in rows]}, indent=2))
    else:
        print(text(rows))
    return 0


def leases(config: LabConfig) -> tuple[Lease, ...]:
    """The leases of a lab; none where no hub has made a ledger yet."""
    with opened(config) as ledger:
        return ledger.active() if ledger else ()


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


def table(gpus: Iterable[Gpu], active: Iterable[Lease]) -> list[Row]:
    """GPUs and leases, brought together by UUID."""
    held = {uuid: lease for lease in active for uuid in lease.gpus}
    rows = [_row(gpu, held.pop(gpu.uuid, None)) for gpu in sorted(gpus, key=lambda gpu: (gpu.node, gpu.index))]
    for uuid, lease in sorted(held.items()):
        gone = Gpu(uuid, node="", index=-1, model="", memory_mib=0)
        rows.append(_row(gone, lease, "missing"))
    return rows


def text(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    if not rows:
        return "This lab has no GPUs."
    lines = [("UUID", "NODE", "GPU", "MODEL", "MEMORY", "STATE", "HOLDER")]
    for row in rows:
        memory = f"{row.memory_mib / 1024:.0f} GiB" if row.memory_mib else "-"
        index = str(row.index) if row.index >= 0 else "-"
        state = f"{row.state} (simulated)" if row.simulated else row.state
        lines.append((row.uuid, row.node or "-", index, row.model or "-", memory, state, row.holder or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _row(gpu: Gpu, lease: Lease | None, state: str = "") -> Row:
    return Row(
        uuid=gpu.uuid,
        node=gpu.node,
        index=gpu.index,
        model=gpu.model,
        memory_mib=gpu.memory_mib,
        simulated=gpu.simulated,
        state=state or (_STATES.get(lease.state, lease.state.value) if lease else "free"),
        holder=str(lease.holder) if lease else "",
        profile=lease.profile if lease else "",
        since=lease.created.isoformat(timespec="seconds") if lease else "",
    )


def _exists(file: str) -> bool:
    try:
        return Path(file).exists()
    except OSError as error:
        raise LabError(f"The ledger {file} cannot be reached ({error.strerror}).", "Run this as its owner.") from None

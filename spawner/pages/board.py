"""Looks at the lab for the board: fills `board_views` from ledger and inventory, and remembers the last look.

Owns which questions are asked, and how often at most: however many people watch, the ledger is read once per change. Never
decides who may see what (`board_views` does), never writes, and is never called on the hub's event loop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from spawner import expect, sharing
from spawner.errors import LabError
from spawner.ledger import Line
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState, Profile
from spawner.pages import views
from spawner.pages.board_views import (
    BoardView,
    GpuRow,
    LineView,
    Load,
    MaintenanceView,
    NodeView,
    OutOfUse,
    ProfileWait,
    TicketRow,
)
from spawner.records import GpuMark, GpuSample, MarkKind, Tally, Ticket, TicketState, Watch
from spawner.runtime import Lab

# An unchanged ledger is read again after this time, for the samples.
SLOW_SECONDS = 5.0
# The line is planned again at most so often that it costs a tenth of one core, and at least so often: times pass.
LINE_SHARE = 10.0
LINE_SECONDS = 30.0
HISTORY_SECONDS = 60.0
HISTORY = timedelta(hours=24)
# A sample that is older says nothing about now.
SAMPLE_LIFE = timedelta(seconds=60)
STATES = {
    LeaseState.CLAIMED: "claimed",
    LeaseState.STARTING: "starting",
    LeaseState.BOUND: "held",
    LeaseState.DRAINING: "draining",
}


class Looker:
    """Looks at one lab. For one thread only."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._view: BoardView | None = None
        self._version = -1
        self._at = 0.0
        self._units: tuple[Gpu, ...] = ()
        self._line = LineView()
        self._line_version = -1
        self._line_at = -LINE_SECONDS
        self._line_cost = 0.0
        self._history: tuple[Tally, ...] = ()
        self._history_at = -HISTORY_SECONDS

    def look(self, slow: float = SLOW_SECONDS) -> BoardView:
        """The board as it is now; the same value as before where nothing changed. Never raises `LabError`.

        Args:
            slow: seconds after which the board is read again although the journal tells no change.
        """
        last = self._view
        try:
            version = self.lab.ledger.version()
            now = time.monotonic()
            aged = now - self._at > slow
            if last is not None and not last.problem and version == self._version and not aged and not self._line_due(version):
                return last
            view = self._read(version)
            self._version, self._at = version, now
        except LabError as error:
            if last is not None and last.problem == error.message:
                return last
            view = dataclasses.replace(last or BoardView(self.lab.clock()), problem=error.message)
        self._view = view
        return view

    def history(self) -> tuple[Tally, ...]:
        """The points of the last day, oldest first.

        Raises:
            LabError: the ledger does not answer.
        """
        if time.monotonic() - self._history_at > HISTORY_SECONDS:
            self._history = self.lab.ledger.tallies(self.lab.clock() - HISTORY)
            self._history_at = time.monotonic()
        return self._history

    def _line_due(self, version: int) -> bool:
        age = time.monotonic() - self._line_at
        return age > LINE_SECONDS or (version != self._line_version and age > LINE_SHARE * self._line_cost)

    def _read(self, version: int) -> BoardView:
        lab, ledger = self.lab, self.lab.ledger
        problem = ""
        try:
            self._units = lab.units()
        except LabError as error:
            problem = error.message
        now = lab.clock()
        leases, marks = ledger.active(), ledger.marks()
        rows = gpu_rows(self._units, leases, marks, ledger.watches(), unknown=bool(problem))
        if self._line_due(version):
            began = time.monotonic()
            self._line = look_at_line(lab, self._units, now)
            self._line_cost, self._line_version, self._line_at = time.monotonic() - began, version, time.monotonic()
        found = ledger.maintenance()
        return BoardView(
            at=now,
            rows=rows,
            loads=loads(rows, ledger.samples(), now),
            nodes=_nodes(self._units, marks),
            line=self._line,
            maintenance=MaintenanceView(found.since, found.message, found.by, found.deadline) if found else None,
            problem=problem,
        )


def gpu_rows(
    units: Sequence[Gpu],
    leases: Iterable[Lease],
    marks: Iterable[GpuMark],
    watches: Mapping[str, Watch],
    *,
    unknown: bool = False,
) -> tuple[GpuRow, ...]:
    """Every unit with its lease and its marks, and what is leased but not there any more.

    Args:
        units: every leasable unit.
        leases: all that are not released.
        marks: what is out of circulation.
        watches: what reclaim knows, by lease.
        unknown: the inventory did not answer, so nothing can be said to be missing.
    """
    held = {uuid: lease for lease in leases for uuid in lease.gpus}
    by_subject: dict[str, GpuMark] = {}
    for mark in marks:
        if mark.subject not in by_subject or mark.kind is MarkKind.SICK:
            by_subject[mark.subject] = mark
    nodes = {gpu.node for gpu in units}
    names = labels(units)
    free = {gpu.uuid for gpu in sharing.free(units, held)}
    ordered = sorted(units, key=lambda gpu: (gpu.node, gpu.index, gpu.parent and gpu.uuid, gpu.uuid))
    rows = []
    for gpu in ordered:
        lease, out = held.pop(gpu.uuid, None), _out(gpu, by_subject)
        # What is taken in another shape, such as the parts of a GPU that is leased whole, is not free although nobody holds it.
        state = STATES[lease.state] if lease else out.kind if out else "free" if gpu.uuid in free else "held"
        row = GpuRow(
            gpu.uuid, gpu.device, gpu.node, names[gpu.uuid], gpu.model, gpu.memory_mib, state,
            simulated=gpu.simulated, shared=bool(gpu.seats), out=out,
        )  # fmt: skip
        rows.append(_leased(row, lease, watches))
    for uuid, lease in held.items():
        device = uuid.partition("#")[0]
        found = by_subject.get(device)
        gone = _told(found) if found else None if unknown else OutOfUse("missing", "The driver does not show this GPU any more.")
        state = "unknown" if unknown else "missing"
        rows.append(_leased(GpuRow(uuid, device, min(nodes, default=""), uuid[:12], "", 0, state, out=gone), lease, watches))
    return tuple(rows)


def _leased(row: GpuRow, lease: Lease | None, watches: Mapping[str, Watch]) -> GpuRow:
    if lease is None:
        return row
    watch = watches.get(lease.id)
    return dataclasses.replace(
        row, holder=lease.holder, lease=lease.id, profile=lease.profile, since=lease.created, ends=lease.ends,
        idle_since=watch.idle_since if watch else None, stop_at=watch.stop_at if watch else None,
    )  # fmt: skip


def labels(units: Iterable[Gpu]) -> dict[str, str]:
    """A short name of each unit that is unique in the lab, such as `GPU 0` or `GPU 1, seat 2`."""
    listed = sorted(units, key=lambda gpu: gpu.uuid)
    nodes = {gpu.node for gpu in listed}
    parts: dict[str, int] = {}
    found = {}
    for gpu in listed:
        name = f"GPU {gpu.index}" if len(nodes) == 1 else f"{gpu.node} GPU {gpu.index}"
        if gpu.parent:
            parts[gpu.parent] = parts.get(gpu.parent, 0) + 1
            name += f", part {parts[gpu.parent]}"
        if gpu.seats:
            name += f", seat {int(gpu.uuid.partition('#')[2]) + 1}"
        found[gpu.uuid] = name
    return found


def loads(rows: Iterable[GpuRow], samples: Mapping[str, GpuSample], now: datetime) -> dict[str, Load]:
    """What each unit's device is doing, by the unit's id; one without a fresh sample has none."""
    found = {}
    for row in rows:
        sample = samples.get(row.device)
        if sample is not None and now - sample.at < SAMPLE_LIFE:
            found[row.id] = Load(
                sample.utilisation, sample.memory_used_mib, sample.temperature, sample.at, row.device.startswith("MIG-")
            )
    return found


def _out(gpu: Gpu, marks: Mapping[str, GpuMark]) -> OutOfUse | None:
    found = [marks[name] for name in (gpu.uuid, gpu.device, gpu.parent, gpu.node) if name in marks]
    sick = [mark for mark in found if mark.kind is MarkKind.SICK]
    return _told((sick or found)[0]) if found else None


def _told(mark: GpuMark) -> OutOfUse:
    return OutOfUse(mark.kind.value, mark.reason, mark.since, mark.by, mark.subject)


def _nodes(units: Iterable[Gpu], marks: Iterable[GpuMark]) -> tuple[NodeView, ...]:
    devices: dict[str, set[str]] = {}
    for gpu in units:
        devices.setdefault(gpu.node, set()).add(gpu.device)
    by_subject = {mark.subject: _told(mark) for mark in marks}
    return tuple(NodeView(node, len(found), by_subject.get(node)) for node, found in sorted(devices.items()))


# --- the line


def look_at_line(lab: Lab, units: Sequence[Gpu], now: datetime) -> LineView:
    """The line as it stands, and what a new request would wait.

    Raises:
        LabError: the ledger does not answer.
    """
    line = lab.ledger.line(units, now)
    plan = lab.plan(line)
    history = lab.ledger.held_seconds()
    expected = expect.turns(plan.order, line.gpus, line.leases, history, now)
    claimed = [ticket for ticket in lab.ledger.tickets() if ticket.state is TicketState.CLAIMED]
    rows = [_ticket_row(ticket, 0, None, "Its turn has come; GPUs are kept for it.") for ticket in claimed]
    rows += [
        _ticket_row(ticket, number, expected[ticket.id], plan.why.get(ticket.id, ""))
        for number, ticket in enumerate(plan.order, 1)
    ]
    return LineView(tuple(rows), waits(lab.config.profiles.values(), plan.order, line, history, now), len(plan.order))


def _ticket_row(ticket: Ticket, number: int, expected: datetime | None, why: str) -> TicketRow:
    # To the minute: a forecast is not more exact, and would otherwise be news every time it is made.
    minute = expected.replace(second=0, microsecond=0) if expected else None
    return TicketRow(
        ticket.id, ticket.holder, number, ticket.request.gpus, ticket.request.profile, ticket.priority, ticket.created,
        minute, why, claim_until=ticket.claim_until, moved=ticket.ahead, shared=ticket.request.sharing == "shared",
    )  # fmt: skip


def free_for(request: GpuRequest, gpus: Iterable[Gpu], leases: Iterable[Lease]) -> int:
    """How many units in circulation would do for a request and are free."""
    free = sharing.free(gpus, (uuid for lease in leases for uuid in lease.gpus))
    suitable = [gpu for gpu in free if sharing.suits(gpu, request)]
    return len(suitable) if request.gpus <= 1 else len(sharing.distinct(suitable))


def waits(
    profiles: Iterable[Profile], order: Sequence[Ticket], line: Line, history: expect.History, now: datetime
) -> tuple[ProfileWait, ...]:
    """What a start with each profile would wait now, behind everyone who waits already."""
    found = []
    for profile in profiles:
        request = profile.request()
        free = free_for(request, line.gpus, line.leases) if profile.gpus else 0
        text = wait_text(request, free, order, line, history, now) if profile.gpus else ""
        found.append(ProfileWait(profile.key, free, text))
    return tuple(found)


def wait_text(request: GpuRequest, free: int, order: Sequence[Ticket], line: Line, history: expect.History, now: datetime) -> str:
    """What a request would wait, in a sentence; '' where waiting would not help."""
    if free >= request.gpus and not order:
        return "Starts at once."
    if len(sharing.distinct(gpu for gpu in line.gpus if sharing.suits(gpu, request))) < request.gpus:
        return ""
    moment = None
    if len(order) < expect.LOOK_AHEAD:
        thought = Ticket("thought", Holder(""), request, (), 1, now)
        moment = expect.wait_for(thought, order, line.gpus, line.leases, history, now)
    ahead = f", behind {views.count(len(order), 'request')} in line" if order else ""
    return f"Expected {views.in_about(moment, now)}{ahead}." if moment else f"Waiting time unknown{ahead}."

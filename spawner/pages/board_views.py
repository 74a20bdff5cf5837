"""What the board shows, as frozen plain values: GPUs, tickets, counts, waits, and who is looking.

Owns their shape and their words. Never asks ledger, inventory or clock
(`board` does), and draws no HTML. What leaves the hub, as page, JSON or stream, is always `seen` by a viewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from spawner.model import Holder
from spawner.pages.viewer import Json, Viewer, iso
from spawner.pages.views import HolderView, count
from spawner.profiles import gib
from spawner.sharing import NOT_ISOLATED

# A sign for each state, so that nobody needs to see the colour; the word stands beside it.
ICONS = {
    "free": "○",
    "claimed": "◔",
    "starting": "◑",
    "held": "●",
    "draining": "◌",
    "drained": "‖",
    "sick": "✕",
    "missing": "?",
    "unknown": "?",
}
TAKEN = ("claimed", "starting", "held", "draining")
OUT = ("drained", "sick", "missing")


@dataclass(frozen=True, slots=True)
class OutOfUse:
    """Why a GPU is given to nobody new. `kind` is `drained`, `sick` or `missing`; `by` is the admin, `lab` or ''."""

    kind: str
    reason: str
    since: datetime | None = None
    by: str = ""
    subject: str = ""

    def seen(self, viewer: Viewer) -> Json:
        """As the viewer may see it."""
        by = self.by if viewer.names or self.by == "lab" else ""
        return {"kind": self.kind, "reason": self.reason, "since": iso(self.since), "by": by, "subject": self.subject}

    @property
    def words(self) -> str:
        """For a sentence."""
        what = "drained by an admin" if self.kind == "drained" else self.kind
        return f"{what}: {self.reason}" if self.reason else what


@dataclass(frozen=True, slots=True)
class Load:
    """What a GPU was doing; None always means: not known. Of a MIG instance (`mig`), no driver tells the utilisation."""

    utilisation: int | None = None
    memory_used_mib: int | None = None
    temperature: int | None = None
    at: datetime | None = None
    mig: bool = False

    def json(self, memory_mib: int) -> Json:
        """The same for everyone."""
        used = "" if self.memory_used_mib is None else f"{gib(self.memory_used_mib << 20)} of {gib(memory_mib << 20)} GB"
        return {
            "utilisation": self.utilisation,
            "memory_used_mib": self.memory_used_mib,
            "temperature": self.temperature,
            "sampled": iso(self.at),
            "load": self._words(),
            "used": used,
            "heat": "" if self.temperature is None else f"{self.temperature} °C",
        }

    def _words(self) -> str:
        if self.utilisation is None:
            return "not measured for MIG" if self.mig else ""
        return f"{self.utilisation} %"


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One unit on the board: a GPU, a MIG instance or a seat.

    Attributes:
        id: the unit's name in leases.
        device: UUID of the device below it.
        state: one of `ICONS`; of the lease where there is one, else of the GPU.
        out: why it is out of use; None where it is in use. A held GPU can be out of use for the next one.
        holder, lease, profile: of the lease; None and '' without one.
        since, ends: of the lease.
        idle_since: since when it is held without being used; None while it is used or nothing is known.
        stop_at: when reclaim stops the lab, if nothing changes.
    """

    id: str
    device: str
    node: str
    label: str
    model: str
    memory_mib: int
    state: str
    simulated: bool = False
    shared: bool = False
    out: OutOfUse | None = None
    holder: Holder | None = None
    lease: str = ""
    profile: str = ""
    since: datetime | None = None
    ends: datetime | None = None
    idle_since: datetime | None = None
    stop_at: datetime | None = None

    def seen(self, viewer: Viewer) -> Json:
        """As the viewer may see it, without the load."""
        named = viewer.may_see(self.holder)
        holder = self.holder if named else None
        return {
            "id": self.id,
            "device": self.device,
            "node": self.node,
            "label": self.label,
            "model": self.model,
            "memory_mib": self.memory_mib,
            "memory": f"{gib(self.memory_mib << 20)} GB" if self.memory_mib else "",
            "simulated": self.simulated,
            "note": NOT_ISOLATED if self.shared else "",
            "state": self.state,
            "icon": ICONS[self.state],
            "words": self._words(viewer, holder),
            "out": self.out.seen(viewer) if self.out else None,
            "holder": {"user": holder.user, "server": holder.server} if holder else None,
            "mine": viewer.is_me(self.holder),
            "lease": self.lease if named else "",
            "profile": self.profile if named else "",
            "since": iso(self.since),
            "ends": iso(self.ends),
            "idle_since": iso(self.idle_since),
            "stop_at": iso(self.stop_at),
        }

    def _words(self, viewer: Viewer, holder: Holder | None) -> str:
        who = HolderView(holder.user, holder.server).who(viewer.name) if holder else ""
        said = {
            "claimed": f"kept for {who}" if who else "kept for someone in line",
            "starting": f"starting for {who}" if who else "starting",
            "held": f"held by {who}" if who else "held",
            "draining": f"ending, held by {who}" if who else "ending, about to be free",
            "unknown": "not known right now",
        }.get(self.state, self.state)
        if self.out is None:
            return said
        return f"{said}; {self.out.words}" if self.state in TAKEN else self.out.words


@dataclass(frozen=True, slots=True)
class TicketRow:
    """A ticket in the line.

    Attributes:
        number: its place, from 1; 0 where its turn has come.
        expected: when its turn is expected; None where that cannot be told.
        claim_until: until when GPUs are kept for it; None where they are not.
        moved: an admin put it to the front (1) or to the back (-1).
        shared: it waits for seats of shared GPUs.
    """

    id: str
    holder: Holder
    number: int
    gpus: int
    profile: str
    priority: int
    since: datetime
    expected: datetime | None
    why: str
    claim_until: datetime | None = None
    moved: int = 0
    shared: bool = False

    def seen(self, viewer: Viewer) -> Json:
        """As the viewer may see it. Why it stands there may name people, so that is hidden with the name."""
        named = viewer.may_see(self.holder)
        who = HolderView(self.holder.user, self.holder.server).who(viewer.name)
        return {
            "id": self.id if named else "",
            "number": self.number,
            "holder": {"user": self.holder.user, "server": self.holder.server} if named else None,
            "mine": viewer.is_me(self.holder),
            "who": who if named else "someone",
            "gpus": self.gpus,
            "what": count(self.gpus, "GPU") + (f" ({NOT_ISOLATED})" if self.shared else ""),
            "profile": self.profile if named else "",
            "priority": self.priority,
            "since": iso(self.since),
            "expected": iso(self.expected),
            "claim_until": iso(self.claim_until),
            "why": self.why if named else "",
            "moved": self.moved,
        }


@dataclass(frozen=True, slots=True)
class ProfileWait:
    """How long a start with a profile would wait now. `wait` is a sentence; '' where the profile needs no GPU."""

    key: str
    free: int
    wait: str

    def json(self) -> Json:
        """The same for everyone."""
        return {"key": self.key, "free": self.free, "wait": self.wait}


@dataclass(frozen=True, slots=True)
class MaintenanceView:
    """No new starts until an admin ends it."""

    since: datetime
    message: str
    by: str
    deadline: datetime | None

    def seen(self, viewer: Viewer) -> Json:
        """As the viewer may see it."""
        return {
            "since": iso(self.since),
            "message": self.message,
            "by": self.by if viewer.names else "",
            "deadline": iso(self.deadline),
        }


@dataclass(frozen=True, slots=True)
class NodeView:
    """A host of GPUs, and why it is out of use; None where it is in use."""

    name: str
    gpus: int
    out: OutOfUse | None = None

    def seen(self, viewer: Viewer) -> Json:
        """As the viewer may see it."""
        return {"name": self.name, "gpus": self.gpus, "out": self.out.seen(viewer) if self.out else None}


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers above the board."""

    total: int = 0
    free: int = 0
    held: int = 0
    out: int = 0
    waiting: int = 0
    simulated: bool = False

    def json(self) -> Json:
        """The same for everyone."""
        return {
            "total": self.total,
            "free": self.free,
            "held": self.held,
            "out": self.out,
            "waiting": self.waiting,
            "simulated": self.simulated,
            "headline": self.headline,
        }

    @property
    def headline(self) -> str:
        """In one sentence."""
        if not self.total:
            return "This lab has no GPU."
        parts = [f"{self.free} of {count(self.total, 'GPU')} free"]
        if self.out:
            parts.append(f"{self.out} out of use")
        parts.append(f"{count(self.waiting, 'request')} in line" if self.waiting else "nobody in line")
        return ", ".join(parts) + "."


@dataclass(frozen=True, slots=True)
class LineView:
    """The waiting line, first to last, and what a new request would wait."""

    tickets: tuple[TicketRow, ...] = ()
    waits: tuple[ProfileWait, ...] = ()
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class BoardView:
    """The lab at one moment, as nobody in particular sees it: it has every name.

    Attributes:
        problem: one sentence where a part of the lab does not answer; what is shown is then older.
    """

    at: datetime
    rows: tuple[GpuRow, ...] = ()
    loads: dict[str, Load] = field(default_factory=dict)
    nodes: tuple[NodeView, ...] = ()
    line: LineView = field(default_factory=LineView)
    maintenance: MaintenanceView | None = None
    problem: str = ""

    @property
    def counts(self) -> Counts:
        """The numbers above the board."""
        states = [row.state for row in self.rows]
        return Counts(
            total=len(states),
            free=states.count("free"),
            held=sum(state in TAKEN for state in states),
            out=sum(state in OUT for state in states),
            waiting=self.line.waiting,
            simulated=any(row.simulated for row in self.rows),
        )

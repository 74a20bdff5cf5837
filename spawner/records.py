"""Frozen values about what happens in the lab: tickets, marks on GPUs, samples of GPUs, and the journal's entries.

Owns their fields and the words of their states. Never does I/O and decides nothing; `model` has the values of requests, leases
and containers, these are what line, board, reclaim and accounting hand to each other.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from spawner.model import GpuRequest, Holder, Lease


class TicketState(str, enum.Enum):
    """Life of a ticket: it waits, gets a claim, becomes a start, and ends."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    STARTING = "starting"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that waits for GPUs.

    Attributes:
        id: 32 hex digits.
        holder: who waits, and for which of their servers.
        groups: the person's groups when the ticket was made, for policy and accounting.
        priority: class; a higher one goes first.
        created: when it was made; it keeps its age through restarts and failed starts.
        lease: id of the claim or of the start that came of it; '' while it waits.
        claim_until: until when the claim is held; None without one.
        attempts: starts that were tried and failed.
        held_back_until: not considered before this moment, after a failed start; None where it always is.
        ahead: an admin moved it: positive to the front, negative to the back, 0 not at all.
        why: one sentence about how it ended or why it stands where it stands; may be empty.
    """

    id: str
    holder: Holder
    request: GpuRequest
    groups: tuple[str, ...]
    priority: int
    created: datetime
    state: TicketState = TicketState.WAITING
    lease: str = ""
    claim_until: datetime | None = None
    attempts: int = 0
    held_back_until: datetime | None = None
    ahead: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a person has when they ask, as policy sees it.

    Attributes:
        leases: the person's leases that are not released.
        tickets: how many tickets the person has, other than for the lab that is asked for.
        gpu_seconds: GPU-seconds of the last seven days, by profile.
        maintenance: the lab takes no new starts; None where it does.
    """

    leases: tuple[Lease, ...] = ()
    tickets: int = 0
    gpu_seconds: Mapping[str, float] = field(default_factory=dict)
    maintenance: Maintenance | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What policy says yes to.

    Attributes:
        request: the request, narrowed to the models that the person may have.
        priority: class in the line.
        life: longest life of the lab; None where it has no end.
        groups: the person's groups, for accounting.
        no_ticket: why the request may not wait in line; '' where it may.
    """

    request: GpuRequest
    priority: int = 1
    life: timedelta | None = None
    groups: tuple[str, ...] = ()
    no_ticket: str = ""


class MarkKind(str, enum.Enum):
    """Why a GPU or node is out of circulation."""

    DRAINED = "drained"
    SICK = "sick"


@dataclass(frozen=True, slots=True)
class GpuMark:
    """A GPU (by UUID) or a whole node (by name) that is given to nobody new.

    Attributes:
        subject: `GPU-…`, `MIG-…` or the name of a node.
        reason: one sentence for the board.
        by: the admin, or `lab` where the lab itself decided.
        comes_back: a passed check may take the mark away; otherwise only an admin may.
    """

    subject: str
    kind: MarkKind
    reason: str
    by: str
    since: datetime
    comes_back: bool = False


@dataclass(frozen=True, slots=True)
class Maintenance:
    """No new starts until an admin ends it; `deadline` is shown to holders, None where there is none."""

    since: datetime
    message: str
    by: str
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU. None always means: the driver does not say.

    Attributes:
        pid: id on the host.
        memory_mib: MiB.
        percent: the most that it alone used the GPU lately, in percent; 0 where it computed nothing.
    """

    pid: int
    memory_mib: int | None
    percent: int | None = None


class Closeness(enum.IntEnum):
    """How near two GPUs of a node are; more is nearer, and each further NVLink between them counts one more."""

    ACROSS = 0
    PROCESSOR = 1
    BRIDGE = 2
    SWITCHES = 3
    SWITCH = 4
    NVLINK = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a GPU.

    Attributes:
        kind: one of xid, ecc, remap, lost, nvml.
        detail: one sentence for a person.
        code: xid: its number; ecc: how many errors; remap: 1 where a reset mends it, 2 where nothing does; lost and nvml:
            NVML's error.
    """

    kind: str
    detail: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a GPU was doing at one moment. None always means: not known, never zero.

    Attributes:
        uuid: of the device (GPU or MIG instance).
        utilisation: percent.
        memory_used_mib: MiB.
        temperature: degrees Celsius.
        processes: () where nothing runs on it.
    """

    uuid: str
    at: datetime
    utilisation: int | None = None
    memory_used_mib: int | None = None
    temperature: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Watch:
    """What reclaim knows and has said about a lease.

    Attributes:
        lease: id.
        idle_since: since when it holds GPUs without using them; None while it works or nothing is known.
        noticed, warned: when the notice and the warning were given; None where they were not.
        stop_at: the moment that the warning named; None without a warning.
        safe_until: extended by the holder until then; None without an extension.
        extensions: how often.
        cause: `idle`, `life` or `message`; `stop` where the stop is under way; '' where nothing was said.
        text: what the person reads.
        seen: when the lab was last looked at; time in which nobody looked does not count.
    """

    lease: str
    idle_since: datetime | None = None
    noticed: datetime | None = None
    warned: datetime | None = None
    stop_at: datetime | None = None
    safe_until: datetime | None = None
    extensions: int = 0
    cause: str = ""
    text: str = ""
    seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the journal, which is only ever added to.

    Attributes:
        number: counts up; 0 before it is written.
        actor: who did it: a person's name, or `lab`.
        action: a short word with a dot, such as `lease.bound` or `gpu.drained`.
        user, server: whom it concerns; '' where nobody.
        subject: id of the lease, ticket or GPU.
        gpus: UUIDs.
        detail: further facts, JSON values only.
    """

    at: datetime
    actor: str
    action: str
    user: str = ""
    server: str = ""
    subject: str = ""
    gpus: tuple[str, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """How many GPUs were what at one moment, for the picture of the last day. `busy` is mean utilisation in percent or None."""

    at: datetime
    total: int
    held: int
    idle: int
    out: int
    waiting: int
    busy: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryDeath:
    """A process of a lab that was killed because the lab's memory was full, as the lab itself tells it.

    Attributes:
        at: when it was noticed.
        what: `kernel`, `server` (JupyterLab itself) or `process`.
        name: its program; '' where it is not known.
        notebook: the notebook that it, or what started it, belongs to; '' without one.
        rss: bytes that it held when it was last seen; None where it is not known.
    """

    at: datetime
    what: str
    name: str = ""
    notebook: str = ""
    rss: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a lab's guard wrote about memory. Written inside the lab, so believed about that lab only.

    Attributes:
        kills: how many of its processes were killed for memory; None where its kernel does not say.
        peak: most bytes it ever used; None where it is not known.
        signal: the signal that ended the server; 0 while it runs or where it ended by itself.
        deaths: the latest of them, oldest first.
    """

    kills: int | None
    peak: int | None
    signal: int
    deaths: tuple[MemoryDeath, ...] = ()


@dataclass(frozen=True, slots=True)
class Remains:
    """What the engine knows about a container that is not running.

    Attributes:
        exit_code: None where the engine does not say.
        oom_killed: some process of it was killed for memory; not necessarily its last one.
        error: why it could not run, in the engine's words; '' as a rule.
        memory: its limit in bytes; 0 where it had none.
        log: the end of its log.
    """

    exit_code: int | None
    oom_killed: bool
    error: str
    memory: int
    log: bytes = b""

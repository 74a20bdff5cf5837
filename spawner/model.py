"""The frozen values that the parts of the lab hand to each other.

Owns the vocabulary (GPU, holder, request, profile, lease, container spec, lab configuration). Never does I/O,
never decides anything, imports nothing of the lab but the values of its rules.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spawner.grants import BoardRules, LineRules, PolicyRules, ReclaimRules, SharingRule


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the inventory saw it.

    Attributes:
        uuid: identity, `GPU-` and a UUID; the only name that is ever used to assign.
        node: host that has it.
        index: position on its host, for screens only.
        model: the vendor's name.
        memory_mib: total memory in MiB.
        simulated: declared in lab.yaml, no device behind it.
        seats: number of seats that the device is shared in; 0 where it is leased whole. The UUID of a seat is the device's,
            `#` and the seat's number.
        parent: UUID of the physical GPU of a MIG instance; '' otherwise.
    """

    uuid: str
    node: str
    index: int
    model: str
    memory_mib: int
    simulated: bool = False
    seats: int = 0
    parent: str = ""

    @property
    def device(self) -> str:
        """UUID of the device: of a seat without the seat's number."""
        return self.uuid.partition("#")[0]


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who holds a lease: a user and one of their servers ('' is the default server)."""

    user: str
    server: str = ""

    def __str__(self) -> str:
        return f"{self.user}/{self.server}" if self.server else self.user


@dataclass(frozen=True, slots=True)
class Profile:
    """One row of the menu.

    Attributes:
        key: name in lab.yaml and in `user_options`.
        gpus: number of GPUs.
        gpu_models: models that will do; empty means any.
        gpu_memory_mib: least memory of each GPU in MiB; 0 means any.
        sharing: `exclusive` (whole GPUs), `mig` (MIG instances) or `shared` (seats, whose memory is not isolated).
        cpus: CPU limit, in CPUs.
        memory, shm: bytes.
        pids: highest number of processes and threads.
        image: image of its labs; empty means the lab's own.
    """

    key: str
    title: str
    description: str
    gpus: int
    gpu_models: tuple[str, ...]
    cpus: float
    memory: int
    shm: int
    pids: int
    gpu_memory_mib: int = 0
    sharing: str = "exclusive"
    image: str = ""

    def request(self, gpus: int | None = None, wait: bool = True) -> GpuRequest:
        """The request that the profile stands for; `gpus` where a person asks for fewer than it has."""
        number = self.gpus if gpus is None else gpus
        return GpuRequest(self.key, number, self.gpu_models, self.gpu_memory_mib, self.sharing, wait)


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What a person asks: a known profile. `gpus`, `gpu_models`, `gpu_memory_mib` and `sharing` are the profile's.

    Attributes:
        wait: becomes a ticket where too few GPUs are free; otherwise it is refused.
    """

    profile: str
    gpus: int
    gpu_models: tuple[str, ...] = ()
    gpu_memory_mib: int = 0
    sharing: str = "exclusive"
    wait: bool = True


class LeaseState(str, enum.Enum):
    """Life of a lease; only `RELEASED` gives the GPUs back. A `CLAIMED` one holds GPUs for a ticket and has no container yet."""

    CLAIMED = "claimed"
    STARTING = "starting"
    BOUND = "bound"
    DRAINING = "draining"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Lease:
    """What the ledger promises to a holder.

    Attributes:
        id: 32 hex digits; the container carries it as a label.
        gpus: UUIDs; empty for a CPU profile.
        container: engine's id once it answered the creation, else ''.
        in_flight: a creation may still be on its way to the engine, so one *absent* proves nothing yet.
        drained: when it began to drain; None while it does not.
        absent_since: when the engine first said *absent* while draining; None while it has not.
        bound: when the lab was up; None before.
        ends: end of its granted life; None where it has none.
        groups: the person's groups at the start, for accounting.
        ticket: id of the ticket that it came of; '' without one.
        priority: class in the line.
        starting: when a start took the claim; None where it began as a start.
    """

    id: str
    holder: Holder
    profile: str
    gpus: tuple[str, ...]
    state: LeaseState
    created: datetime
    container: str = ""
    in_flight: bool = False
    drained: datetime | None = None
    absent_since: datetime | None = None
    bound: datetime | None = None
    ends: datetime | None = None
    groups: tuple[str, ...] = ()
    ticket: str = ""
    priority: int = 1
    starting: datetime | None = None


class Presence(enum.Enum):
    """What the engine says about a lease's container. *Unknown* is not gone."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """What the engine's host has: CPUs and memory in bytes."""

    cpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says about itself.

    Attributes:
        version: engine version.
        cdi: the engine takes CDI device requests.
        default_runtime: name of the default OCI runtime.
    """

    version: str
    capacity: HostCapacity
    cdi: bool
    default_runtime: str = "runc"


@dataclass(frozen=True, slots=True)
class Mount:
    """One bind or volume: `source` is a host path or a volume name."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """How GPUs are asked of the engine: `driver` is `cdi` or `nvidia`, `device_ids` carry UUIDs."""

    driver: str
    device_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything about a container that follows from request, lease and lab.yaml, computed afresh on each start.

    `memory`, `shm` in bytes; `cpus` in CPUs; `user` is `uid:gid`.
    """

    name: str
    image: str
    user: str
    env: Mapping[str, str]
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...]
    devices: DeviceRequest | None
    cpus: float
    memory: int
    shm: int
    pids: int
    network: str


@dataclass(frozen=True, slots=True)
class HubConfig:
    """Where the hub listens for browsers."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The Docker network of the labs, and the port of the hub's API on its gateway."""

    name: str
    hub_port: int


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A GPU declared in lab.yaml; memory in bytes."""

    uuid: str
    model: str
    memory: int


@dataclass(frozen=True, slots=True)
class GpuConfig:
    """`source` is `auto`, `nvml` or `simulated`."""

    source: str
    simulated: tuple[SimulatedGpu, ...]
    sharing: tuple[SharingRule, ...] = ()


@dataclass(frozen=True, slots=True)
class MountConfig:
    """The NAS folders on the host, and who may write data sets."""

    datasets: Path
    models: Path
    dataset_writers: frozenset[str]
    dataset_writer_groups: frozenset[str]
    probe_seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that hold for everyone. Times in seconds."""

    servers_per_user: int
    start_seconds: int
    http_seconds: int
    stop_seconds: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class LabConfig:
    """lab.yaml, parsed and checked."""

    file: str
    name: str
    image: str
    state: Path
    hub: HubConfig
    network: NetworkConfig
    sign_in: str
    gpus: GpuConfig
    mounts: MountConfig
    limits: Limits
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    policy: PolicyRules = field(default_factory=PolicyRules)
    line: LineRules = field(default_factory=LineRules)
    reclaim: ReclaimRules = field(default_factory=ReclaimRules)
    board: BoardRules = field(default_factory=BoardRules)

    @property
    def images(self) -> tuple[str, ...]:
        """Every image that labs start from, each once, the lab's own first."""
        return tuple(dict.fromkeys([self.image, *(profile.image or self.image for profile in self.profiles.values())]))

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return f"sqlite:///{self.state / 'state' / 'ledger.sqlite'}"

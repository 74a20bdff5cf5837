"""The shape of lab.yaml: one pydantic model per section, with every rule of a single value.

Owns keys, types, bounds and defaults. Never reads a file and never speaks to a person: `labfile` turns these
models' complaints into sentences with file and line.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from spawner.schema_rules import BoardSection, LineSection, PolicySection, ReclaimSection, SharingSection

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgt])b?", re.IGNORECASE)
_UNIT = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
GPU_UUID = r"^GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
KEY = r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$"


def parse_size(value: Any) -> int:
    """Read a size such as `512m`, `8g` or `1.5g` (powers of 1024) into bytes.

    Raises:
        ValueError: the value is not a number with a unit.
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        return int(float(found[1]) * _UNIT[found[2].lower()])
    raise ValueError(f"a size is a number with a unit, such as 512m or 8g, not {value!r}")


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1 << 20, le=1 << 50)]
Text = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Name = Annotated[StrictStr, Field(pattern=KEY)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Seconds = Annotated[StrictInt, Field(ge=1, le=3600)]
Names = Annotated[list[Text], Field(max_length=1000)]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(Section):
    """Where browsers reach the hub."""

    address: Text = "127.0.0.1"
    port: Port = 8000


class Network(Section):
    """The Docker network of the labs."""

    name: Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")] = "gpulab"
    hub_port: Port = 8081


class SignIn(Section):
    """How people sign in."""

    method: Literal["token"] = "token"


class Simulated(Section):
    """One declared GPU without a device."""

    uuid: Annotated[StrictStr, Field(pattern=GPU_UUID)]
    model: Text = "Simulated GPU"
    memory: Size = 24 << 30


class Gpus(Section):
    """Where the GPUs come from."""

    source: Literal["auto", "nvml", "simulated"] = "auto"
    simulated: Annotated[list[Simulated], Field(max_length=64)] = []
    sharing: Annotated[list[SharingSection], Field(max_length=64)] = []


class Writers(Section):
    """Who may write data sets."""

    users: Names = []
    groups: Names = []


class Datasets(Section):
    """The data sets' folder."""

    path: Text
    writers: Writers = Writers()


class Models(Section):
    """The models' folder."""

    path: Text


class Mounts(Section):
    """Folders of the NAS."""

    datasets: Datasets
    models: Models
    probe_seconds: Annotated[StrictInt | StrictFloat, Field(gt=0, le=60)] = 5


class LimitsSection(Section):
    """Limits for everyone."""

    servers_per_user: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    start_seconds: Seconds = 120
    http_seconds: Seconds = 120
    stop_seconds: Seconds = 10
    uid: Annotated[StrictInt, Field(ge=1, le=2**31 - 2)] = 1000
    gid: Annotated[StrictInt, Field(ge=1, le=2**31 - 2)] = 1000


class ProfileSection(Section):
    """One row of the menu."""

    title: Text
    description: Annotated[StrictStr, Field(max_length=500)] = ""
    image: Text | None = None
    gpus: Annotated[StrictInt, Field(ge=0, le=64)] = 0
    gpu_models: Annotated[list[Text], Field(max_length=64)] = []
    gpu_memory: Size | None = None
    sharing: Literal["exclusive", "mig", "shared"] = "exclusive"
    cpus: Annotated[StrictInt | StrictFloat, Field(gt=0, le=1024)]
    memory: Size
    shm: Size = 64 << 20
    pids: Annotated[StrictInt, Field(ge=64, le=4_000_000)] = 1024


class LabFile(Section):
    """The whole of lab.yaml."""

    name: Name = "gpulab"
    image: Text
    state: Text = ".lab"
    hub: Hub = Hub()
    network: Network = Network()
    sign_in: SignIn = SignIn()
    gpus: Gpus = Gpus()
    mounts: Mounts
    limits: LimitsSection = LimitsSection()
    profiles: Annotated[dict[Name, ProfileSection], Field(min_length=1, max_length=100)]
    policy: PolicySection = PolicySection()
    line: LineSection = LineSection()
    reclaim: ReclaimSection = ReclaimSection()
    board: BoardSection = BoardSection()

"""What is wrong with this host, and what to do about it.

Owns the checks: functions of gathered facts, each yielding findings. Never looks at anything itself
(`spawner.commands.facts` does), and never mends.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from spawner.model import EngineFacts, Gpu, LabConfig
from spawner.profiles import unavailable_reason

MIB, GIB = 1 << 20, 1 << 30
ENGINE_FLOOR = (20, 10)
# JupyterHub: GHSA-c4gm-pwx9-9w8j, GHSA-69wv-m5fw-2fhp. DockerSpawner: GHSA-hfgr-h3vc-p6c2. OAuthenticator: CVE-2024-29033.
PACKAGE_FLOORS = {"jupyterhub": (5, 5, 1), "dockerspawner": (13,), "oauthenticator": (16, 3)}
TOOLKIT_FLOOR = (1, 17, 8)  # CVE-2025-23266, CVE-2025-23267
RUNC_FLOORS = {
    "CVE-2024-21626": ((1, 1, 12),),
    "CVE-2025-31133": ((1, 2, 8), (1, 3, 3), (1, 4, 0)),
}
# What lets a container out without further help; the others need an attacker who also shares mounts with a starting one.
RUNC_BROKEN = "CVE-2024-21626"
DISK_LOW, DISK_FULL = 5 * GIB, 512 * MIB
SKEW_SECONDS = 30.0
# The clock cannot be right where it shows a time before this program was written.
WRITTEN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Level(str, enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding; `what_to_do` is empty only where nothing needs doing."""

    id: str
    level: Level
    sentence: str
    what_to_do: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that labs mount.

    Attributes:
        what: its key in lab.yaml.
        problem: `missing` or `no answer`; '' where it answers.
        writable: labs may write, by owner and mode; True where they need not.
        free: bytes; None where unknown.
    """

    what: str
    path: str
    problem: str = ""
    writable: bool = True
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A port the hub needs; `problem` is why this process could not listen on it, or ''."""

    what: str
    address: str
    port: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the checks look at, gathered once. None and '' stand for what could not be seen or is not there."""

    now: datetime
    config: LabConfig | None = None
    config_error: str = ""
    engine: EngineFacts | None = None
    engine_error: str = ""
    components: Mapping[str, str] = field(default_factory=dict)  # versions of the engine's parts
    mended: frozenset[str] = frozenset()  # CVEs that the distribution mended in the engine's runc
    limits_off: tuple[str, ...] = ()  # what the engine cannot limit
    skew: float | None = None  # seconds that the engine's clock is ahead
    images: Mapping[str, bool] | None = None
    gpus: tuple[Gpu, ...] = ()
    gpus_error: str = ""
    cdi_uuids: frozenset[str] = frozenset()  # GPUs that the host's CDI specs name
    toolkit: str = ""  # version of nvidia-container-toolkit
    hook: bool = False  # nvidia's runtime hook is on the path
    folders: tuple[Folder, ...] = ()
    disks: Mapping[str, int] = field(default_factory=dict)  # free bytes by what is kept there
    hub_ours: bool = False  # the hub of this lab.yaml runs
    ports: tuple[Port, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    secrets_mode: int | None = None
    open_secrets: tuple[str, ...] = ()  # secrets that others can read


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, in the order of the checks."""
    return tuple(finding for check in CHECKS for finding in check(facts))


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where all is fine, 1 with warnings, 2 where something is broken."""
    levels = {finding.level for finding in findings}
    return 2 if Level.BROKEN in levels else 1 if Level.WARN in levels else 0


def check_config(facts: Facts) -> Iterator[Finding]:
    """lab.yaml is right."""
    if facts.config is None:
        yield Finding("config", Level.BROKEN, facts.config_error, "`gpulab config check` reads it again.")
        return
    yield Finding("config", Level.OK, f"{facts.config.file} is right.")
    if facts.engine and not facts.gpus_error:
        for profile in facts.config.profiles.values():
            if reason := unavailable_reason(profile, facts.engine.capacity, facts.gpus):
                yield Finding("profiles", Level.OK, f"{reason} Pages and REST API say so, too.")


def check_packages(facts: Facts) -> Iterator[Finding]:
    """The hub's parts are not older than their last security fix."""
    for name, floor in PACKAGE_FLOORS.items():
        found = facts.packages.get(name, "")
        if found and parts(found) >= floor:
            yield Finding(name, Level.OK, f"{name} is {found}.")
            continue
        sentence = f"{name} is {found or 'not installed'}; safe from {_dotted(floor)} on."
        yield Finding(name, Level.BROKEN, sentence, "Install what is locked: make setup, then make restart.")


def check_engine(facts: Facts) -> Iterator[Finding]:
    """The Docker engine answers, is new enough, and can enforce limits."""
    if facts.engine is None:
        yield Finding("engine", Level.BROKEN, facts.engine_error or "The Docker engine was not asked.", "Start it: make setup")
        return
    version = facts.engine.version
    if parts(version) < ENGINE_FLOOR:
        sentence = f"The Docker engine is {version}; the lab needs {_dotted(ENGINE_FLOOR)}."
        yield Finding("engine", Level.BROKEN, sentence, "Update Docker from your distribution or from docker.com.")
    else:
        kind = "with CDI" if facts.engine.cdi else "without CDI"
        yield Finding("engine", Level.OK, f"The Docker engine {version} answers ({kind}).")
    if facts.limits_off:
        sentence = f"The engine cannot limit {', '.join(facts.limits_off)}: one lab can starve the others."
        yield Finding("limits", Level.WARN, sentence, "Boot the host with these control groups enabled.")
    if facts.engine.default_runtime == "nvidia":
        sentence = "The engine's default runtime is nvidia: containers outside this lab may see every GPU."
        yield Finding("runtime", Level.WARN, sentence, 'Remove "default-runtime" from /etc/docker/daemon.json.')


def check_runc(facts: Facts) -> Iterator[Finding]:
    """The engine's runc has the fixes against known ways out of a container."""
    version = facts.components.get("runc", "")
    if facts.engine is None or not version:
        return
    missing = [cve for cve, floors in RUNC_FLOORS.items() if not _fixed(parts(version), floors) and cve not in facts.mended]
    if not missing:
        yield Finding("runc", Level.OK, f"runc {version} has the fixes of {', '.join(RUNC_FLOORS)}.")
        return
    level = Level.BROKEN if RUNC_BROKEN in missing else Level.WARN
    sentence = f"runc {version} can be broken out of: it lacks the fix of {', '.join(missing)}."
    yield Finding("runc", level, sentence, "Update runc, or take Docker with runc 1.2.8, 1.3.3 or newer from docker.com.")


def check_image(facts: Facts) -> Iterator[Finding]:
    """The images that labs start from are there: the lab's own, and those that profiles name."""
    if facts.config is None:
        return
    for image, present in (facts.images or {}).items():
        if present:
            yield Finding("image", Level.OK, f"The image {image} is there.")
        else:
            users = [key for key, profile in facts.config.profiles.items() if (profile.image or facts.config.image) == image]
            whose = "no lab" if image == facts.config.image else f"no lab of the profile {' or '.join(users)}"
            yield Finding("image", Level.BROKEN, f"The image {image} is missing: {whose} can start.", "Run: make image")


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """GPUs answer, and the engine can hand them out by UUID."""
    if facts.config is None:
        return
    if facts.gpus_error:
        yield Finding("gpus", Level.BROKEN, facts.gpus_error, "Mend the driver; `nvidia-smi` must list the GPUs.")
        return
    real = [gpu for gpu in facts.gpus if not gpu.simulated]
    if not real:
        count = len(facts.gpus)
        sentence = f"{count} simulated GPUs from lab.yaml: everything works but the device itself." if count else "No GPUs."
        yield Finding("gpus", Level.OK if count else Level.WARN, sentence, "" if count else "Set gpus in lab.yaml.")
        return
    yield Finding("gpus", Level.OK, f"{len(real)} NVIDIA GPUs answer.")
    yield from _check_toolkit(facts)
    if facts.engine and facts.engine.cdi:
        unnamed = [gpu.uuid for gpu in real if gpu.uuid not in facts.cdi_uuids]
        advice = "Run: sudo nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
        if unnamed:
            yield Finding("cdi", Level.BROKEN, f"No CDI spec of this host names {', '.join(unnamed)}.", advice)
        else:
            yield Finding("cdi", Level.OK, "The CDI specs of this host name every GPU by its UUID.")
    elif facts.engine and not facts.hook:
        sentence = "The engine has neither CDI nor NVIDIA's runtime hook: no container gets a GPU."
        yield Finding("cdi", Level.BROKEN, sentence, "Install nvidia-container-toolkit and restart the Docker engine.")


def _check_toolkit(facts: Facts) -> Iterator[Finding]:
    if not facts.toolkit:
        sentence = "nvidia-container-toolkit is not installed (no `nvidia-ctk` found)."
        yield Finding(
            "toolkit", Level.BROKEN, sentence, "Install it from NVIDIA's package source, and restart the Docker engine."
        )
    elif parts(facts.toolkit) < TOOLKIT_FLOOR:
        sentence = f"nvidia-container-toolkit {facts.toolkit} lets a container become root on the host (CVE-2025-23266)."
        yield Finding("toolkit", Level.BROKEN, sentence, f"Update it to {_dotted(TOOLKIT_FLOOR)} or newer.")
    else:
        yield Finding("toolkit", Level.OK, f"nvidia-container-toolkit is {facts.toolkit}.")


def check_folders(facts: Facts) -> Iterator[Finding]:
    """The NAS folders answer and can be used."""
    for folder in facts.folders:
        name = f"mounts.{folder.what}"
        if folder.problem == "no answer":
            sentence = f"{folder.path} ({name}) does not answer in time."
            yield Finding(name, Level.BROKEN, sentence, "Mend the NAS or its mount; labs start again as soon as it answers.")
        elif folder.problem:
            sentence = f"{folder.path} ({name}) is missing or not a folder."
            yield Finding(name, Level.BROKEN, sentence, "Make or mount it, or correct lab.yaml.")
        elif not folder.writable and facts.config:
            limits = facts.config.limits
            sentence = f"By its mode, labs (uid {limits.uid}, gid {limits.gid}) cannot write to {folder.path} ({name})."
            yield Finding(name, Level.WARN, sentence, f"Run: chown {limits.uid}:{limits.gid} {folder.path}")
        else:
            yield Finding(name, Level.OK, f"{folder.path} ({name}) answers.")
        if folder.free is not None:
            yield from _check_space(name, folder.path, folder.free)


def check_disks(facts: Facts) -> Iterator[Finding]:
    """There is room for databases, logs, images and homes."""
    for what, free in facts.disks.items():
        yield from _check_space("disk", what, free)


def _check_space(name: str, what: str, free: int) -> Iterator[Finding]:
    if free < DISK_LOW:
        level = Level.BROKEN if free < DISK_FULL else Level.WARN
        yield Finding(
            name, level, f"Only {free / GIB:.1f} GiB are free for {what}.", "Free some space, or move it to a larger disk."
        )


def check_ports(facts: Facts) -> Iterator[Finding]:
    """The hub runs, or could listen."""
    if facts.config is None:
        return
    if facts.hub_ours:
        yield Finding("hub", Level.OK, "The hub of this lab answers.")
        return
    taken = [port for port in facts.ports if port.problem]
    for port in taken:
        sentence = f"{port.what} cannot listen on {port.address}:{port.port} ({port.problem})."
        yield Finding("ports", Level.BROKEN, sentence, "End what listens there, or set another hub.port in lab.yaml.")
    if not taken:
        yield Finding("hub", Level.WARN, "The hub does not run; its ports are free.", "Start it with: make up")


def check_secrets(facts: Facts) -> Iterator[Finding]:
    """Nobody else reads the secrets."""
    if facts.config is None or facts.secrets_mode is None:
        return
    folder = facts.config.state / "secrets"
    if facts.secrets_mode & 0o077:
        sentence = f"{folder} is open to others (mode {facts.secrets_mode:o}); the hub refuses to start."
        yield Finding("secrets", Level.BROKEN, sentence, f"Run: chmod 700 {folder}")
    elif facts.open_secrets:
        sentence = f"Others may read {', '.join(facts.open_secrets)} in {folder}."
        yield Finding("secrets", Level.WARN, sentence, f"Run: chmod 600 {folder}/*")
    else:
        yield Finding("secrets", Level.OK, f"Only their owner reads the secrets in {folder}.")


def check_clock(facts: Facts) -> Iterator[Finding]:
    """Tokens, certificates and leases end when they should."""
    advice = "Let the host keep time: timedatectl set-ntp true"
    if facts.now < WRITTEN:
        yield Finding("clock", Level.BROKEN, f"The clock shows {facts.now:%Y-%m-%d}, which cannot be.", advice)
    elif facts.skew is not None and abs(facts.skew) > SKEW_SECONDS:
        yield Finding("clock", Level.WARN, f"The engine's clock is {facts.skew:+.0f} s off this host's.", advice)


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_config,
    check_packages,
    check_engine,
    check_runc,
    check_image,
    check_gpus,
    check_folders,
    check_disks,
    check_ports,
    check_secrets,
    check_clock,
)


def parts(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: `1.1.5+ds1` is (1, 1, 5); () where there are none."""
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _fixed(version: tuple[int, ...], floors: tuple[tuple[int, ...], ...]) -> bool:
    return version >= max(floors) or any(version[:2] == floor[:2] and version >= floor for floor in floors)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

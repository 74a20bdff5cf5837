"""Gathers what `gpulab doctor` looks at.

Owns the looking: at the engine, the driver, folders, ports, packages and files, each within a time limit, so that one dead
part never hides the others. Never judges (`spawner.doctor` does), never makes or changes anything.
"""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from spawner import labfile
from spawner.doctor import PACKAGE_FLOORS, Facts, Folder, Port
from spawner.engine import Engine, translated
from spawner.errors import LabError
from spawner.hub_api import HubApi
from spawner.inventory import detect
from spawner.model import LabConfig

ENGINE_SECONDS = 10
HUB_SECONDS = 5.0
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
RUNC_CHANGELOG = Path("/usr/share/doc/runc/changelog.Debian.gz")
_CDI_NAME = re.compile(r"""["']?name["']?\s*:\s*["']?((?:GPU|MIG)-[0-9a-f-]{36})""")
_LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}


def gather(file: str, env: Mapping[str, str]) -> Facts:
    """Look at everything once; what cannot be seen is left empty, with the reason where a check needs it."""
    now = datetime.now(timezone.utc)
    packages = {name: _installed(name) for name in PACKAGE_FLOORS}
    try:
        config = labfile.load(file, env)
    except LabError as error:
        return Facts(now, config_error=error.message, packages=packages, **_engine(None, now))
    ours = _hub_is_ours(config)
    secrets = config.state / "secrets"
    return Facts(
        now,
        config=config,
        packages=packages,
        **_engine(config, now),
        **_gpus(config),
        folders=_folders(config),
        hub_ours=ours,
        ports=() if ours else _ports(config),
        secrets_mode=_mode(secrets),
        open_secrets=tuple(sorted(path.name for path in _entries(secrets) if (_mode(path) or 0) & 0o077)),
    )


def _engine(config: LabConfig | None, now: datetime) -> dict[str, Any]:
    found: dict[str, Any] = {}
    engine: Engine | None = None
    try:
        with translated("find it"):
            engine = Engine(call_seconds=ENGINE_SECONDS, answer_seconds=ENGINE_SECONDS)
        found["engine"] = engine.facts()
        with translated("tell about its parts"):
            info, version = engine.client.info(), engine.client.version()
        named = {part["Name"]: part for part in version.get("Components") or []}
        found["components"] = {name: str(part.get("Version", "")) for name, part in named.items()}
        found["mended"] = mended(RUNC_CHANGELOG, str((named.get("runc", {}).get("Details") or {}).get("GitCommit", "")))
        found["limits_off"] = tuple(word for key, word in _LIMITS.items() if info.get(key) is False)
        found["skew"] = skew(str(info.get("SystemTime", "")), now)
        found["disks"] = _disks(config, str(info.get("DockerRootDir", "")))
        if config:
            found["images"] = {image: engine.image_present(image) for image in config.images}
    except LabError as error:
        found["engine_error"] = error.sentence
    finally:
        if engine:
            engine.close()
    return found


def mended(changelog: Path, package: str) -> frozenset[str]:
    """CVEs that a distribution's changelog names, if it is the changelog of just this package version.

    A distribution mends an old version and leaves its number: the number alone would call every Debian broken.
    """
    try:
        with gzip.open(changelog, "rt", encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
    except (OSError, EOFError):
        return frozenset()
    if not package or not text.startswith(f"runc ({package})"):
        return frozenset()
    return frozenset(re.findall(r"CVE-\d{4}-\d+", text))


def skew(engine_time: str, now: datetime) -> float | None:
    """Seconds that the engine's clock is ahead of `now`; None where it does not tell the time."""
    try:
        # Nanoseconds are more than Python reads before 3.11.
        theirs = datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", engine_time).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (theirs - now).total_seconds() if theirs.tzinfo else None


def _gpus(config: LabConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        found["gpus"] = detect(config).gpus()
    except LabError as error:
        found["gpus_error"] = error.sentence
    if any(not gpu.simulated for gpu in found.get("gpus", ())):
        found["cdi_uuids"] = cdi_uuids(CDI_FOLDERS)
        found["hook"] = shutil.which("nvidia-container-runtime-hook") is not None
        code, output = ask(["nvidia-ctk", "--version"], ENGINE_SECONDS)
        version = re.search(r"version (\S+)", output)
        found["toolkit"] = version[1] if code == 0 and version else ""
    return found


def cdi_uuids(folders: Sequence[Path]) -> frozenset[str]:
    """GPU UUIDs that are device names in the CDI specs of these folders, in YAML or JSON."""
    names: set[str] = set()
    for folder in folders:
        for path in _entries(folder):
            if path.suffix in (".yaml", ".yml", ".json"):
                with suppress(OSError):
                    names.update(_CDI_NAME.findall(path.read_text("utf-8", "replace")))
    return frozenset(names)


def _folders(config: LabConfig) -> tuple[Folder, ...]:
    mounts, limits = config.mounts, config.limits
    # Data sets are read-only unless granted: that labs cannot write there is no fault.
    return (
        look("datasets", mounts.datasets, mounts.probe_seconds, None),
        look("models", mounts.models, mounts.probe_seconds, (limits.uid, limits.gid)),
    )


def look(what: str, path: Path, seconds: float, writer: tuple[int, int] | None, stat: str = "/usr/bin/stat") -> Folder:
    """Look at a folder through child processes: a call into a dead NFS mount cannot be interrupted.

    Whether labs may write is worked out from owner and mode, not tried: the folders above it, which may be closed to the
    labs' uid, do not count inside a container.

    Args:
        what: the folder's key in lab.yaml.
        path: the folder.
        seconds: time limit of each look.
        writer: uid and gid that should be able to write; None where nobody has to.
        stat: the program that looks.
    """
    code, output = ask([stat, "-L", "--format=%u %g %a", f"{path}/."], seconds)
    if code is None:
        return Folder(what, str(path), "no answer")
    if code != 0:
        return Folder(what, str(path), "missing")
    owner, group, mode = output.split()
    writable = writer is None or may_write(int(owner), int(group), int(mode, 8), *writer)
    code, output = ask([stat, "-f", "--format=%a %S", f"{path}/."], seconds)
    free = int(output.split()[0]) * int(output.split()[1]) if code == 0 else None
    return Folder(what, str(path), writable=writable, free=free)


def may_write(owner: int, group: int, mode: int, uid: int, gid: int) -> bool:
    """Whether a mode lets this uid and gid make files in a folder."""
    shift = 6 if uid == owner else 3 if gid == group else 0
    return (mode >> shift) & 0o3 == 0o3


def ask(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command; its exit code and output, or None when it did not end in time."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return 127, ""
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        if child.stdout:
            child.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.5)
        return None, ""
    return child.returncode, output.decode("utf-8", "replace")


def _disks(config: LabConfig | None, docker_root: str) -> dict[str, int]:
    places = {f"Docker's images and homes in {docker_root}": Path(docker_root or "/nowhere")}
    if config:
        places[f"databases and logs in {config.state}"] = config.state
    free: dict[str, int] = {}
    for what, path in places.items():
        # The engine's folder may be on another host, or closed to us.
        with suppress(OSError):
            free[what] = shutil.disk_usage(path).free
    return free


def _hub_is_ours(config: LabConfig) -> bool:
    try:
        hub = HubApi.of(config, HUB_SECONDS)
    except LabError:
        return False
    try:
        return hub.answers_as_ours()
    finally:
        hub.close()


def _ports(config: LabConfig) -> tuple[Port, ...]:
    hub = config.hub
    wanted = [("The hub", hub.address, hub.port), ("The hub's proxy", "127.0.0.1", hub.port + 1)]
    return tuple(Port(what, address, port, _cannot_listen(address, port)) for what, address, port in wanted)


def _cannot_listen(address: str, port: int) -> str:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except (OSError, OverflowError, UnicodeError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []

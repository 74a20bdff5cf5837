"""What a lab's container uses and has: CPU time, bytes read and written, its GPU devices, and which lab a process belongs to.

Owns reading these, from the kernel where the container is this host's, else from the engine. Never judges them: `reclaim` and
`seats` do. What cannot be read is None.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.asking import Asker
from spawner.engine import Engine, translated
from spawner.errors import EngineError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105
# Longer than the probe gives NVIDIA's tool.
ASKING_SECONDS = 20.0
# A lab may start any number of processes; the biggest movers are seldom behind so many.
MOST_PROCESSES = 2000
_CONTAINER = re.compile(r"[0-9a-f]{64}")
# Exit code 9: lost, 0: not lost; whatever else comes of it tells nothing. NVML's own words are read, because all that
# `nvidia-smi` has for a lost right to a device is a sentence.
PROBE = """
set -- /dev/nvidia[0-9]*
[ -e "$1" ] || { echo "its devices are gone"; exit 9; }
[ ! -e /dev/nvidiactl ] || set -- "$@" /dev/nvidiactl
for node in "$@"; do
  ( : <"$node" ) 2>&- || { echo "${node##*/} cannot be opened"; exit 9; }
done
[ -n "$(command -v nvidia-smi)" ] || exit 0
said=$(timeout 10 nvidia-smi -L 2>&1) && exit 0
case $said in
  *"Failed to initialize NVML"*|*"No devices were found"*) echo "NVIDIA's driver does not answer inside it"; exit 9;;
esac
exit 1
"""
log = logging.getLogger("gpulab.reclaim")


@dataclass(frozen=True, slots=True)
class Vitals:
    """Counters since the lab's start.

    Attributes:
        cpu_seconds: CPU time.
        moved: bytes that its processes read and wrote, over network and files, the NAS included.
        complete: `moved` counts everything. The engine's own numbers leave out what the host mounts for a lab, so they prove
            work but no idleness.
    """

    cpu_seconds: float | None = None
    moved: int | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Inside:
    """What is needed to look into a container: its first process, its address on the labs' network, its server's own token."""

    pid: int
    address: str
    token: str


class VitalsReader:
    """Reads vitals of containers; remembers where each is found, so that the engine is asked once per lab."""

    def __init__(self, engine: Engine, network: str) -> None:
        self._engine = engine
        self._network = network
        self._asker = Asker(engine, ASKING_SECONDS)
        self._inside: dict[str, Inside] = {}
        self._lock = threading.Lock()

    def inside(self, container: str) -> Inside:
        """Where to look into a running container.

        Raises:
            EngineError: the engine does not tell.
        """
        with self._lock:
            if (known := self._inside.get(container)) is not None:
                return known
        with translated("look at a lab's container"):
            told = self._engine.quick.inspect_container(container)
        env = dict(entry.partition("=")[::2] for entry in told["Config"]["Env"] or ())
        address = (told["NetworkSettings"]["Networks"].get(self._network) or {}).get("IPAddress") or ""
        found = Inside(int(told["State"]["Pid"]), str(address), env.get(TOKEN, ""))
        with self._lock:
            if found.pid:
                self._inside[container] = found
        return found

    def read(self, container: str) -> Vitals:
        """The counters of a running container; unknown where neither kernel nor engine tells."""
        try:
            pid = self.inside(container).pid
            if pid and _is_here(pid, container):
                cpu, moved = _cpu(pid), _moved(pid)
                if cpu is not None and moved is not None:
                    return Vitals(cpu, moved, complete=True)
            with translated("count what a lab uses"):
                told = self._engine.quick.stats(container, stream=False, one_shot=True)
            return _from_engine(told)
        except (EngineError, KeyError, TypeError, ValueError, AttributeError):
            return Vitals()

    def lost(self, container: str) -> str | None:
        """Why a container that was given GPUs cannot use them: a few words, '' where it can, None where that cannot be told."""
        try:
            code, said = self._asker.ask(container, ["sh", "-c", PROBE])
        except (EngineError, KeyError, TypeError, AttributeError):
            return None
        if code == 9:
            return " ".join(said.split())[:100] or "its devices are gone"
        return "" if code == 0 else None

    def forget_all_but(self, containers: set[str]) -> None:
        """Forget containers that are gone."""
        self._asker.forget_all_but(containers)
        with self._lock:
            self._inside = {name: found for name, found in self._inside.items() if name in containers}


def container_of(pid: int) -> str:
    """Id of the container that a process of this host runs in; '' where it runs in none or is gone."""
    found = _CONTAINER.search(_text(PROC / str(pid) / "cgroup"))
    return found[0] if found else ""


def _is_here(pid: int, container: str) -> bool:
    # An engine on another host, or in another pid namespace, names processes that are somebody else's here.
    return bool(container) and container in _text(PROC / str(pid) / "cgroup")


def _cpu(pid: int) -> float | None:
    for folder, controllers in _groups(pid):
        if "cpuacct" in controllers and (text := _text(folder / "cpuacct.usage")):
            return int(text) / 1e9
        for told in _text(folder / "cpu.stat").splitlines() if not controllers else ():
            if told.startswith("usage_usec "):
                return int(told.split()[1]) / 1e6
    return None


def _moved(pid: int) -> int | None:
    total = 0
    for process in _members(pid):
        text = _text(PROC / str(process) / "io")
        counters = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if "rchar" in counters:
            total += int(counters["rchar"]) + int(counters["wchar"])
        elif process == pid:
            # Only root reads another's counters.
            return None
    # What is received by `recv` is in no process's counters, but on the container's network card.
    for line in _text(PROC / str(pid) / "net" / "dev").splitlines()[2:]:
        card, _, numbers = line.partition(":")
        fields = numbers.split()
        if card.strip() != "lo" and len(fields) > 8:
            total += int(fields[0]) + int(fields[8])
    return total


def _groups(pid: int) -> list[tuple[Path, list[str]]]:
    """The cgroups of a process, as folders with their controllers; version 2 has none by name."""
    found: list[tuple[Path, list[str]]] = []
    for line in _text(PROC / str(pid) / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        controllers = [name for name in names.split(",") if name]
        if names.startswith("name="):
            continue
        folders = [CGROUPS / name / path.lstrip("/") for name in (names, *controllers)] if names else []
        folders += [] if names else [CGROUPS / path.lstrip("/"), CGROUPS / "unified" / path.lstrip("/")]
        found += [(folder, controllers) for folder in folders if folder.is_dir()]
    return found


def _members(pid: int) -> list[int]:
    """Every process of the container, those that were started in it from outside included; its first one, first."""
    for folder, _ in _groups(pid):
        if listed := _text(folder / "cgroup.procs").split():
            # A group below it is one that the lab made for itself.
            below = [name for path in _below(folder) for name in _text(path).split()]
            others = {int(name) for name in (*listed, *below)} - {0, pid}
            return [pid, *sorted(others)[:MOST_PROCESSES]]
    return [pid]


def _below(folder: Path) -> list[Path]:
    try:
        return list(folder.glob("*/cgroup.procs"))[:MOST_PROCESSES]
    except OSError:
        return []


def _from_engine(told: dict[str, Any]) -> Vitals:
    cpu = float(told["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
    network = sum(int(card["rx_bytes"]) + int(card["tx_bytes"]) for card in (told.get("networks") or {}).values())
    rows = (told.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    disks = sum(int(row["value"]) for row in rows if str(row["op"]).lower() in ("read", "write"))
    return Vitals(cpu, network + disks)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""

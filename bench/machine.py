"""What a result must say about where it comes from: machine, engine, versions, commit.

Owns the reading of these facts. Never tells a host name, an address or a path.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.hub import REPO

HUB_PACKAGES = ("jupyterhub", "dockerspawner", "docker", "tornado", "sqlalchemy")


def cpu_model(text: str) -> str:
    """The processor's name from the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def slug(model: str, cores: int) -> str:
    """A short file name for a kind of machine, never for this one in particular."""
    words = re.sub(r"\(.*?\)|@.*|\b(cpu|processor|\d+-core)\b", " ", model.lower())
    return f"{'-'.join(re.findall(r'[a-z0-9]+', words)) or 'unknown'}-{cores}c"


def gpu_slug(gpus: Sequence[str]) -> str:
    """What GPUs add to that name, such as `-4x-nvidia-h100`; nothing where there are none."""
    if not gpus:
        return ""
    words = re.findall(r"[a-z0-9]+", gpus[0].lower().partition(",")[0])
    return f"-{len(gpus)}x-{'-'.join(words)}"


def describe() -> dict[str, str]:
    """The machine in words."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    release = platform.freedesktop_os_release()
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "unknown",
        "system": release.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
    }


def engine(client: Any) -> dict[str, str]:
    """The engine in words."""
    info, version = client.info(), client.version()
    parts = {part["Name"].lower(): part["Version"] for part in version.get("Components", [])}
    return {
        "docker": str(info["ServerVersion"]),
        "containerd": parts.get("containerd", "unknown"),
        "runc": parts.get("runc", "unknown"),
        "storage": str(info["Driver"]),
        "cgroup": str(info.get("CgroupVersion", "1")),
    }


def hub() -> dict[str, str]:
    """What both hubs run on."""
    proxy = json.loads((REPO / "requirements" / "proxy" / "package.json").read_text())["dependencies"]
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in HUB_PACKAGES}
    return found | {name: str(wanted) for name, wanted in proxy.items()}


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    command = ["git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def wait_until_quiet(load: float, seconds: float) -> None:
    """Wait until the machine is quiet, but not for ever; the load is in the result."""
    deadline = time.monotonic() + seconds
    while (now := os.getloadavg()[0]) > load:
        if time.monotonic() >= deadline:
            print(f"The machine is not quiet (load {now:.2f}); measuring anyway. The result says so.", flush=True)
            return
        time.sleep(5)

"""A `ContainerSpec` in the Docker engine's own words.

Owns the host options of a lab's container (limits, rights, mounts, device request) and the reading of what the engine says
about CDI. Pure functions; never talks to an engine and never decides what a lab gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spawner.model import ContainerSpec, Mount

CPU_PERIOD = 100_000
"""Scheduling period in microseconds; the quota is counted in it."""


def host_options(spec: ContainerSpec) -> dict[str, Any]:
    """The engine's host options of a spec; a pure function."""
    options: dict[str, Any] = {
        "mounts": mount_options(spec.mounts),
        "network_mode": spec.network,
        "mem_limit": spec.memory,
        # Equal to memory: no swap beyond it, so that a lab at its limit is stopped instead of slowing the host.
        "memswap_limit": spec.memory,
        "shm_size": spec.shm,
        "cpu_period": CPU_PERIOD,
        "cpu_quota": int(spec.cpus * CPU_PERIOD),
        "pids_limit": spec.pids,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        # The engine's own removal would destroy the reason of an end (out of memory) before anyone read it.
        "auto_remove": False,
        # What a lab prints goes to the engine's disk; without a limit one endless loop would fill it.
        "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        "restart_policy": {"Name": "no"},
    }
    if spec.devices is not None:
        request: dict[str, Any] = {"Driver": spec.devices.driver, "DeviceIDs": list(spec.devices.device_ids)}
        if spec.devices.driver == "nvidia":
            request["Capabilities"] = [["gpu"]]
        options["device_requests"] = [request]
    return options


def mount_options(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    """Mounts as the engine takes them.

    The `Mounts` form with type bind refuses a missing source; the older `Binds` would make it, owned by root.
    """
    return [
        {
            "Target": mount.target,
            "Source": mount.source,
            "Type": "bind" if mount.source.startswith("/") else "volume",
            "ReadOnly": mount.read_only,
        }
        for mount in mounts
    ]


def has_cdi(info: Mapping[str, Any], api_version: str) -> bool:
    """Whether a GPU can be asked of this engine through CDI.

    Engines from API 1.50 on have CDI switched on by default and tell which devices they know: without NVIDIA's among them, a
    request through CDI would fail where one through the nvidia driver works. Older ones have it only where an admin chose it.
    ref: Docker Engine API version history, 1.50: `GET /info` includes `DiscoveredDevices`

    Args:
        info: the engine's answer about itself.
        api_version: version of the API that was spoken.
    """
    if not info.get("CDISpecDirs") or not _at_least(str(info.get("ServerVersion", "")), (25, 0)):
        return False
    if not _at_least(api_version, (1, 50)):
        return True
    known = info.get("DiscoveredDevices") or []
    return any(str(device.get("ID", "")).startswith("nvidia.com/gpu=") for device in known)


def _at_least(version: str, floor: tuple[int, int]) -> bool:
    parts = version.split(".")
    try:
        return (int(parts[0]), int(parts[1])) >= floor
    except (IndexError, ValueError):
        return False

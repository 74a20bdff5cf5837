"""How close NVIDIA's GPUs are to each other: NVLink, PCIe switches, processors.

Owns the questions to NVML and their translation into `Closeness`. Never starts or ends NVML and never chooses (`placement` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from spawner.inventory.session import cannot_tell, is_lost
from spawner.records import Closeness


def links(nvml: Any, handles: Mapping[str, Any]) -> dict[frozenset[str], int]:
    """Closeness of each pair of these GPUs; a pair of which nothing can be told is left out.

    Args:
        nvml: the NVML library, started.
        handles: UUID and handle of each GPU.

    Raises:
        NVMLError: the driver fails otherwise than for one lost GPU.
    """
    ends = {uuid: _link_ends(nvml, handle) for uuid, handle in handles.items()}
    buses = {uuid: _bus(nvml, handle) for uuid, handle in handles.items()}
    found: dict[frozenset[str], int] = {}
    for one, other in combinations(handles, 2):
        direct = min(ends[one].count(buses[other]), ends[other].count(buses[one])) if buses[one] and buses[other] else 0
        # Links that end at a switch reach every GPU on it.
        count = direct or min(ends[one].count(_SWITCH), ends[other].count(_SWITCH))
        if not count and "" in ends[one] and "" in ends[other]:
            count = _speaks_nvlink(nvml, handles[one], handles[other])
        close = Closeness.NVLINK + count - 1 if count else _ancestor(nvml, handles[one], handles[other])
        if close is not None:
            found[frozenset((one, other))] = int(close)
    return found


_SWITCH = "switch"


def _speaks_nvlink(nvml: Any, one: object, other: object) -> int:
    """1 if two GPUs whose links do not tell where they end reach each other by NVLink nevertheless, else 0."""
    status = _tell(nvml, lambda: nvml.nvmlDeviceGetP2PStatus(one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK))
    return int(status == nvml.NVML_P2P_STATUS_OK)


def _ancestor(nvml: Any, one: object, other: object) -> Closeness | None:
    level = _tell(nvml, lambda: nvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    return {
        nvml.NVML_TOPOLOGY_INTERNAL: Closeness.SWITCH,
        nvml.NVML_TOPOLOGY_SINGLE: Closeness.SWITCH,
        nvml.NVML_TOPOLOGY_MULTIPLE: Closeness.SWITCHES,
        nvml.NVML_TOPOLOGY_HOSTBRIDGE: Closeness.BRIDGE,
        nvml.NVML_TOPOLOGY_NODE: Closeness.PROCESSOR,
        nvml.NVML_TOPOLOGY_SYSTEM: Closeness.ACROSS,
    }.get(level)


def _link_ends(nvml: Any, handle: object) -> list[str]:
    """Where each active NVLink of a GPU ends: `_SWITCH`, the bus address of another GPU, or '' where it does not tell."""
    ends = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, link) != nvml.NVML_FEATURE_ENABLED:
                continue
        except nvml.NVMLError as error:
            # A link that this card does not have; the next may be there.
            if cannot_tell(nvml, error) or is_lost(nvml, error):
                continue
            raise
        kind = _tell(nvml, lambda link=link: nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link))
        if kind == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            ends.append(_SWITCH)
        else:
            remote = _tell(nvml, lambda link=link: nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))
            ends.append("" if remote is None else _address(remote))
    return ends


def _bus(nvml: Any, handle: object) -> str:
    info = _tell(nvml, lambda: nvml.nvmlDeviceGetPciInfo_v3(handle))
    return "" if info is None else _address(info)


def _address(info: Any) -> str:
    # From the numbers: the text form differs between the questions in the width of the domain.
    return f"{info.domain:08x}:{info.bus:02x}:{info.device:02x}"


def _tell(nvml: Any, question: Any) -> Any:
    try:
        return question()
    except nvml.NVMLError as error:
        if cannot_tell(nvml, error) or is_lost(nvml, error):
            return None
        raise

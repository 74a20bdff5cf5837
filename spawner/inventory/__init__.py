"""Which GPUs this host has, what they do, and how they are: NVIDIA's, asked of the driver, or simulated ones from lab.yaml.

Owns NVML (nvidia-ml-py), and the difference between *no driver* and *a driver that is broken*; only the first may be replaced by
simulated GPUs. Never knows who holds a GPU, and never identifies one by its index.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

from spawner.inventory import nvidia
from spawner.inventory.base import Inventory, StaticInventory, Watcher
from spawner.model import Gpu, LabConfig

__all__ = ["Inventory", "NvmlInventory", "StaticInventory", "Watcher", "detect"]

PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
_MIB = 1 << 20


class NvmlInventory(nvidia.NvmlInventory):
    """The GPUs that the NVIDIA driver of this host reports, through nvidia-ml-py."""

    def __init__(self, node: str, nvml: Any = pynvml) -> None:
        super().__init__(node, nvml)


def detect(config: LabConfig, *, node: str = "", nvml: Any = pynvml, pci: Path = PCI_DEVICES) -> Inventory:
    """Choose the inventory that lab.yaml asks for; `auto` means NVIDIA's driver where there is one.

    Never raises: a driver that is present but broken is chosen, and says so on each question, so that running labs are
    looked after meanwhile.

    Args:
        config: lab.yaml.
        node: name of this host; its host name where empty.
        nvml: the NVML library.
        pci: folder that lists the PCI devices.
    """
    node = node or socket.gethostname()
    source = config.gpus.source
    if source == "nvml" or (source == "auto" and _driver_expected(nvml, pci)):
        return NvmlInventory(node, nvml)
    return StaticInventory(
        Gpu(gpu.uuid, node, index, gpu.model, gpu.memory // _MIB, simulated=True)
        for index, gpu in enumerate(config.gpus.simulated)
    )


def _driver_expected(nvml: Any, pci: Path) -> bool:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return False
        # The library also comes with packages on hosts without a GPU. Where there is one, its kernel module is missing
        # (a kernel update without a rebuild), and simulated GPUs would hide that.
        return error.value != nvml.NVML_ERROR_DRIVER_NOT_LOADED or _has_nvidia_gpu(pci)
    with suppress(nvml.NVMLError):
        nvml.nvmlShutdown()
    return True


def _has_nvidia_gpu(pci: Path) -> bool:
    def read(device: Path, name: str) -> str:
        try:
            return (device / name).read_text().strip()
        except OSError:
            return ""

    return any(
        read(device, "vendor") == _NVIDIA and read(device, "class").startswith(_DISPLAY_CLASS)
        for device in (pci.iterdir() if pci.is_dir() else ())
    )

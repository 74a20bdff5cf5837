"""Which GPUs this host has: NVIDIA's, asked of the driver, or simulated ones declared in lab.yaml.

Owns NVML (nvidia-ml-py): starting and ending it, its spellings, and the difference between *no driver* and *a driver that
is broken*; only the first may be replaced by simulated GPUs. Never knows who holds a GPU, and never identifies one by its index.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pynvml

from spawner.errors import InventoryError
from spawner.model import Gpu, LabConfig
from spawner.schema import GPU_UUID

log = logging.getLogger(__name__)

PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
_MIB = 1 << 20
_ADMIN = "Run `nvidia-smi` on the host and mend what it says; often a reboot after a driver update is all it takes."


class Inventory(Protocol):
    """Tells which GPUs there are."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that can be used now, by node and index, each with a UUID of its own.

        Raises:
            InventoryError: it cannot be told.
        """


class StaticInventory:
    """An inventory that always gives the same GPUs: the simulated ones, or a test's."""

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self._gpus = tuple(gpus)

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that were given.

        Raises:
            InventoryError: a UUID has not the real form, or stands twice.
        """
        return _checked(self._gpus)


class NvmlInventory:
    """The GPUs that the NVIDIA driver of this host reports.

    NVML is started and ended on each call: a session held open would go on failing after a driver restart, and would
    keep the driver from being updated. A GPU that has fallen off the bus is left out and logged, so that it is
    granted to nobody while the others work on.

    Attributes:
        node: name of this host, written into each `Gpu`.
    """

    def __init__(self, node: str, nvml: Any = pynvml) -> None:
        self.node = node
        self._nvml = nvml

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs as the driver reports them now; takes up to seconds where no persistence daemon runs.

        Raises:
            InventoryError: there is no driver, it fails, or it names a GPU in a way that cannot be leased.
        """
        with self._session():
            count = int(self._asked("count the GPUs", self._nvml.nvmlDeviceGetCount))
            found = tuple(gpu for index in range(count) if (gpu := self._gpu(index)) is not None)
        if count and not found:
            raise InventoryError(f"None of the {count} GPUs of {self.node} answers its driver.", _ADMIN)
        return _checked(found)

    @contextmanager
    def _session(self) -> Iterator[None]:
        self._asked("start", self._nvml.nvmlInit)
        try:
            yield
        finally:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                # The answer is there already, or a better reason for its absence is on its way.
                log.warning("NVML on %s did not end cleanly: %s", self.node, error)

    def _gpu(self, index: int) -> Gpu | None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            return Gpu(
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                node=self.node,
                index=index,
                model=_text(nvml.nvmlDeviceGetName(handle)),
                memory_mib=self._memory_mib(handle),
            )
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
                log.error("GPU %d of %s is left out: %s. It needs a reset or a reboot.", index, self.node, error)
                return None
            raise self._failure(f"describe GPU {index}", error) from error

    def _memory_mib(self, handle: object) -> int:
        # Chips that share their memory with the CPU (Grace, Jetson) report none of their own.
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_NOT_SUPPORTED:
                return 0
            raise

    def _asked(self, what: str, call: Any) -> Any:
        try:
            return call()
        except self._nvml.NVMLError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: Any) -> InventoryError:
        if error.value == self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return InventoryError(
                f"{self.node} has no NVIDIA driver.",
                "Install it, or set `gpus.source` to `simulated` in lab.yaml.",
            )
        return InventoryError(f"The NVIDIA driver of {self.node} failed to {what}: {error}.", _ADMIN)


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


def _checked(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    seen: dict[str, Gpu] = {}
    for gpu in gpus:
        place = f"GPU {gpu.index} of {gpu.node}"
        if not re.fullmatch(GPU_UUID, gpu.uuid):
            raise InventoryError(f"{place} is called {gpu.uuid!r}; a GPU is leased as `GPU-` and a UUID.", _ADMIN)
        if gpu.uuid in seen:
            raise InventoryError(f"{place} has the same UUID as GPU {seen[gpu.uuid].index}: {gpu.uuid}.", _ADMIN)
        seen[gpu.uuid] = gpu
    return gpus


def _text(value: str | bytes) -> str:
    # Releases of nvidia-ml-py differ in what they return.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

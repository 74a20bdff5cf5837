"""Speaking with NVML: starting and ending it, its spellings, and its errors in words.

Owns sessions, handles and the difference between *no driver* and *a driver that fails*. Never knows what a caller asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spawner.errors import InventoryError
from spawner.inventory.base import ADMIN

log = logging.getLogger(__name__)


@contextmanager
def session(nvml: Any, node: str) -> Iterator[None]:
    """NVML, started here and ended afterwards.

    Raises:
        InventoryError: it cannot be started.
    """
    begin(nvml, node)
    try:
        yield
    finally:
        end(nvml, node)


def begin(nvml: Any, node: str) -> None:
    """Start NVML; each start needs one end.

    Raises:
        InventoryError: there is no driver, or it fails.
    """
    asked(nvml, node, "start", nvml.nvmlInit)


def end(nvml: Any, node: str) -> None:
    """End NVML; never raises."""
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        # The answer is there already, or a better reason for its absence is on its way.
        log.warning("NVML on %s did not end cleanly: %s", node, error)


def asked(nvml: Any, node: str, what: str, call: Any) -> Any:
    """The answer to a question without which nothing else can be told.

    Raises:
        InventoryError: NVML answers with an error.
    """
    try:
        return call()
    except nvml.NVMLError as error:
        raise failure(nvml, node, what, error) from error


def failure(nvml: Any, node: str, what: str, error: Any) -> InventoryError:
    """NVML's error as one for a person."""
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return InventoryError(
            f"{node} has no NVIDIA driver.",
            "Install it, or set `gpus.source` to `simulated` in lab.yaml.",
        )
    return InventoryError(f"The NVIDIA driver of {node} failed to {what}: {error}.", ADMIN)


def is_lost(nvml: Any, error: Any) -> bool:
    """Whether an error says that the GPU itself is gone or needs a reset."""
    return error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)


def cannot_tell(nvml: Any, error: Any) -> bool:
    """Whether an error says that a card, a driver or a MIG instance has no answer to a question, now or ever."""
    return error.value in (
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_INVALID_ARGUMENT,
        nvml.NVML_ERROR_NO_PERMISSION,
        nvml.NVML_ERROR_NOT_FOUND,
        nvml.NVML_ERROR_INSUFFICIENT_SIZE,
        nvml.NVML_ERROR_IN_USE,
        nvml.NVML_ERROR_NO_DATA,
        nvml.NVML_ERROR_NOT_READY,
        nvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nvml.NVML_ERROR_DEPRECATED,
    )


def mig_handles(nvml: Any, handle: object) -> list[Any] | None:
    """Handles of a GPU's MIG instances; None where MIG is off.

    Raises:
        NVMLError: the GPU or its driver fails.
    """
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return None
        most = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except nvml.NVMLError as error:
        if cannot_tell(nvml, error):
            return None
        raise
    found = []
    for number in range(most):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except nvml.NVMLError as error:
            # Places without an instance answer this.
            if not cannot_tell(nvml, error):
                raise
    return found


def text(value: str | bytes) -> str:
    """A name as NVML gives it; releases of nvidia-ml-py differ in what they return."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

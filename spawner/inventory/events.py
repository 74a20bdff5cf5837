"""Waits for what NVIDIA's driver reports by itself: Xid errors.

Owns NVML's event set, and the session that has to stay open for it. Never judges an error (`health` does) and remembers none.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from typing import Any

from spawner.errors import InventoryError
from spawner.inventory import session
from spawner.records import Fault

log = logging.getLogger(__name__)

# A wait inside NVML cannot be interrupted, so it is made in pieces of this length.
_PIECE_SECONDS = 0.5
# One call tells this many at most: a card may report without end.
_MOST = 1000
_NO_INSTANCE = 0xFFFFFFFF


class XidWatcher:
    """Waits for Xid errors of all GPUs of this host.

    NVML reports only to a session that stays open. It is opened by the first wait, and again after each error, so that a
    driver that was restarted is heard again. While it is open the driver cannot be unloaded: close it for a driver update.

    One thread waits; `close` may be called from any.

    Attributes:
        watched: UUIDs of the cards whose errors are reported here; empty while no session is open.
    """

    def __init__(self, node: str, nvml: Any) -> None:
        self.node = node
        self._nvml = nvml
        self._events: Any = None
        self._cards: dict[int, tuple[str, Any]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def watched(self) -> tuple[str, ...]:
        """UUIDs of the cards whose errors are reported here."""
        return tuple(uuid for uuid, _ in self._cards.values())

    def wait(self, seconds: float) -> tuple[tuple[str, Fault], ...]:
        """Xid errors since the last call, waiting at most this long for the first; see `base.Watcher`.

        Raises:
            InventoryError: the driver does not answer.
        """
        until = time.monotonic() + seconds
        try:
            while not self._closed.is_set():
                left = until - time.monotonic()
                with self._lock:
                    if self._closed.is_set():
                        break
                    found = self._drain(max(0.0, min(left, _PIECE_SECONDS)))
                if found or left <= 0:
                    return found
        except InventoryError:
            with self._lock:
                self._let_go()
            # Not a caller's business to pace: a driver that fails at once would be asked without a pause.
            self._closed.wait(max(0.0, until - time.monotonic()))
            raise
        return ()

    def close(self) -> None:
        """End a wait that is under way, within a second, and let go of the driver."""
        self._closed.set()
        with self._lock:
            self._let_go()

    def _drain(self, seconds: float) -> tuple[tuple[str, Fault], ...]:
        nvml = self._nvml
        if self._events is None:
            self._open()
        found: list[tuple[str, Fault]] = []
        milliseconds = int(seconds * 1000)
        while len(found) < _MOST:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, milliseconds)
            except nvml.NVMLError as error:
                # What was reported before is not lost for an error that comes after it; that one will come again.
                if found or error.value == nvml.NVML_ERROR_TIMEOUT:
                    break
                raise session.failure(nvml, self.node, "report errors of GPUs", error) from error
            found += self._told(event)
            milliseconds = 0
        return tuple(found)

    def _open(self) -> None:
        nvml = self._nvml
        session.begin(nvml, self.node)
        try:
            self._events = nvml.nvmlEventSetCreate()
            for index in range(int(nvml.nvmlDeviceGetCount())):
                self._register(index)
        except nvml.NVMLError as error:
            self._let_go(begun=True)
            raise session.failure(nvml, self.node, "be watched for errors of GPUs", error) from error

    def _register(self, index: int) -> None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = session.text(nvml.nvmlDeviceGetUUID(handle))
            if not int(nvml.nvmlDeviceGetSupportedEventTypes(handle)) & nvml.nvmlEventTypeXidCriticalError:
                return
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)
            self._cards[_address(handle)] = (uuid, handle)
        except nvml.NVMLError as error:
            # The others are watched nevertheless; that this one is lost shows in its sample.
            if not (session.cannot_tell(nvml, error) or session.is_lost(nvml, error)):
                raise
            log.warning("Xid errors of GPU %d of %s are not reported: %s", index, self.node, error)

    def _told(self, event: Any) -> list[tuple[str, Fault]]:
        code = int(event.eventData)
        known = self._cards.get(_address(event.device))
        if known is None:
            log.error("Xid %d of a GPU of %s that was not asked about", code, self.node)
            return []
        uuid, handle = known
        log.error("Xid %d of GPU %s of %s", code, uuid, self.node)
        fault = Fault("xid", f"The driver reported Xid {code}.", code)
        return [(subject, fault) for subject in self._subjects(uuid, handle, event)]

    def _subjects(self, uuid: str, handle: Any, event: Any) -> list[str]:
        """Whom an error concerns: the MIG instance that it names, else all of the card's, else the card."""
        nvml = self._nvml
        try:
            instances = session.mig_handles(nvml, handle)
            if not instances:
                return [uuid]
            names = {}
            for instance in instances:
                ids = (int(nvml.nvmlDeviceGetGpuInstanceId(instance)), int(nvml.nvmlDeviceGetComputeInstanceId(instance)))
                names[session.text(nvml.nvmlDeviceGetUUID(instance))] = ids
        except nvml.NVMLError as error:
            log.warning("the MIG instances of GPU %s of %s cannot be told: %s", uuid, self.node, error)
            return [uuid]
        wanted = (int(event.gpuInstanceId), int(event.computeInstanceId))
        if wanted[0] == _NO_INSTANCE:
            return list(names)
        return [name for name, ids in names.items() if ids[0] == wanted[0] and wanted[1] in (ids[1], _NO_INSTANCE)] or list(names)

    def _let_go(self, begun: bool = False) -> None:
        nvml = self._nvml
        begun = begun or self._events is not None
        if self._events is not None:
            try:
                nvml.nvmlEventSetFree(self._events)
            except nvml.NVMLError as error:
                log.warning("the event set of %s was not freed: %s", self.node, error)
            self._events = None
        self._cards = {}
        if begun:
            session.end(nvml, self.node)


def _address(handle: Any) -> int:
    """The number behind NVML's handle: two handles of one GPU are two Python objects."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)

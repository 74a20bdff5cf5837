"""The GPUs that NVIDIA's driver of this host reports, asked through NVML.

Owns the order of questions: cards, their MIG instances, samples, topology. Never knows who holds a GPU, and never identifies one
by its index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from spawner.errors import InventoryError
from spawner.inventory import samples as sampling
from spawner.inventory import topology
from spawner.inventory.base import ADMIN, Watcher, checked
from spawner.inventory.events import XidWatcher
from spawner.inventory.session import asked, failure, is_lost, mig_handles, session, text
from spawner.model import Gpu
from spawner.records import GpuSample

log = logging.getLogger(__name__)
_MIB = 1 << 20


class NvmlInventory:
    """The GPUs that the NVIDIA driver of this host reports.

    NVML is started and ended on each call: a session held open would go on failing after a driver restart, and would
    keep the driver from being updated. A GPU that has fallen off the bus is left out and logged, so that it is
    granted to nobody while the others work on. A GPU with MIG on is never leased whole: its instances are.

    Attributes:
        node: name of this host, written into each `Gpu`.
    """

    def __init__(self, node: str, nvml: Any) -> None:
        self.node = node
        self._nvml = nvml
        self._seen: dict[str, str] = {}

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs as the driver reports them now; takes up to seconds where no persistence daemon runs.

        Raises:
            InventoryError: there is no driver, it fails, or it names a GPU in a way that cannot be leased.
        """
        with session(self._nvml, self.node):
            count = self._count()
            cards = [card for index in range(count) if (card := self._card(index)) is not None]
        if count and not cards:
            raise InventoryError(f"None of the {count} GPUs of {self.node} answers its driver.", ADMIN)
        found = checked(tuple(gpu for units in cards for gpu in units))
        # Replaced and never changed in place: several threads may ask at once.
        self._seen = {**self._seen, **{gpu.uuid: gpu.parent for gpu in found}}
        return found

    def samples(self, at: datetime, known: Iterable[str] = ()) -> tuple[GpuSample, ...]:
        """What each GPU does now; one that was seen before, or is known, and is not there any more is there as lost.

        Raises:
            InventoryError: the driver does not answer.
        """
        # Of a MIG instance that only a caller knows, nobody can tell any more whether an admin removed it.
        seen = {**{uuid: "" for uuid in known if uuid.startswith("GPU-")}, **self._seen}
        with session(self._nvml, self.node):
            cards, errors = self._cards()
            found, parents = {}, {}
            for card_uuid, card in cards.items():
                parts = self._parts(card)
                for uuid, handle in {card_uuid: card}.items() if parts is None else parts.items():
                    found[uuid] = sampling.sample(self._nvml, handle, uuid, at, card)
                    parents[uuid] = "" if parts is None else card_uuid
        gone = sampling.lost(seen, found, cards, at, ", ".join(dict.fromkeys(str(error) for error in errors)))
        # What an admin took apart is forgotten; what is lost is told until it is back.
        self._seen = {**{sample.uuid: seen[sample.uuid] for sample in gone}, **parents}
        return (*found.values(), *gone)

    def links(self) -> Mapping[frozenset[str], int]:
        """How close the whole GPUs are to each other.

        Raises:
            InventoryError: the driver does not answer.
        """
        with session(self._nvml, self.node):
            whole = {uuid: card for uuid, card in self._cards()[0].items() if self._parts(card) is None}
            return dict(asked(self._nvml, self.node, "tell its topology", lambda: topology.links(self._nvml, whole)))

    def watch(self) -> Watcher:
        """Begin to wait for Xid errors; the driver is asked by the first wait."""
        return XidWatcher(self.node, self._nvml)

    def _count(self) -> int:
        return int(asked(self._nvml, self.node, "count the GPUs", self._nvml.nvmlDeviceGetCount))

    def _cards(self) -> tuple[dict[str, Any], list[Any]]:
        """UUID and handle of each card that answers, and the errors of the others.

        Raises:
            InventoryError: none answers, and it is not the cards that are lost.
        """
        nvml = self._nvml
        found, errors = {}, []
        for index in range(self._count()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found[text(nvml.nvmlDeviceGetUUID(handle))] = handle
            except nvml.NVMLError as error:
                errors.append(error)
        strange = next((error for error in errors if not is_lost(nvml, error)), None)
        if strange is not None and not found:
            raise failure(nvml, self.node, "describe its GPUs", strange) from strange
        return found, errors

    def _parts(self, card: object) -> dict[str, Any] | None:
        """UUID and handle of a card's MIG instances; None where it is whole."""
        nvml = self._nvml
        try:
            handles = mig_handles(nvml, card)
            return None if handles is None else {text(nvml.nvmlDeviceGetUUID(one)): one for one in handles}
        except nvml.NVMLError as error:
            if is_lost(nvml, error):
                return None
            raise failure(nvml, self.node, "describe its MIG instances", error) from error

    def _card(self, index: int) -> tuple[Gpu, ...] | None:
        """A card as the units that it is leased in; None where it is lost."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            card = self._gpu(handle, index, "")
            parts = mig_handles(nvml, handle)
            return (card,) if parts is None else tuple(self._gpu(part, index, card.uuid) for part in parts)
        except nvml.NVMLError as error:
            if is_lost(nvml, error):
                log.error("GPU %d of %s is left out: %s. It needs a reset or a reboot.", index, self.node, error)
                return None
            raise failure(nvml, self.node, f"describe GPU {index}", error) from error

    def _gpu(self, handle: object, index: int, parent: str) -> Gpu:
        nvml = self._nvml
        return Gpu(
            uuid=text(nvml.nvmlDeviceGetUUID(handle)),
            node=self.node,
            index=index,
            model=text(nvml.nvmlDeviceGetName(handle)),
            memory_mib=self._memory_mib(handle),
            parent=parent,
        )

    def _memory_mib(self, handle: object) -> int:
        # Chips that share their memory with the CPU (Grace, Jetson) report none of their own.
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_NOT_SUPPORTED:
                return 0
            raise

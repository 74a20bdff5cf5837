"""What an inventory is, and the one that always says the same: simulated GPUs, or a test's.

Owns the questions that every inventory answers, and the form of a GPU's name. Never asks a driver.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from spawner.errors import InventoryError
from spawner.model import Gpu
from spawner.records import Fault, GpuSample
from spawner.schema import GPU_UUID

MIG_UUID = GPU_UUID.replace("GPU-", "MIG-")
ADMIN = "Run `nvidia-smi` on the host and mend what it says; often a reboot after a driver update is all it takes."


class Watcher(Protocol):
    """Waits for what the driver reports by itself, such as Xid errors."""

    def wait(self, seconds: float) -> tuple[tuple[str, Fault], ...]:
        """What was reported since the last call, as pairs of a UUID and its fault; waits for it at most this long.

        An error of one GPU is told of each of its MIG instances.

        Raises:
            InventoryError: the driver does not answer; the time has passed nevertheless, and the next call tries again.
        """

    def close(self) -> None:
        """End a wait that is under way, within a second, and let go of the driver. Idempotent."""


class Inventory(Protocol):
    """Tells which GPUs there are, what they do, how close they are to each other, and what happens to them."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU and MIG instance that can be used now, by node and index, each with a UUID of its own.

        Raises:
            InventoryError: it cannot be told.
        """

    def samples(self, at: datetime, known: Iterable[str] = ()) -> tuple[GpuSample, ...]:
        """What each GPU and MIG instance does now; one that is lost is there with its fault.

        Args:
            at: the present moment.
            known: UUIDs of GPUs that should be there, besides those that this inventory itself has seen.

        Raises:
            InventoryError: nothing can be told of any.
        """

    def links(self) -> Mapping[frozenset[str], int]:
        """How close two GPUs are, from `records.Closeness` upwards; a pair that is not there is as far as can be.

        Changes with the hardware only, so an answer may be kept for minutes. MIG instances cannot talk to each other, and
        are in no pair.

        Raises:
            InventoryError: it cannot be told.
        """

    def watch(self) -> Watcher:
        """Begin to wait for what the driver reports; never raises."""


class StaticInventory:
    """An inventory that always gives the same GPUs: the simulated ones, or a test's."""

    def __init__(self, gpus: Iterable[Gpu], links: Mapping[frozenset[str], int] | None = None) -> None:
        self._gpus = tuple(gpus)
        self._links = dict(links or {})

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that were given.

        Raises:
            InventoryError: a UUID has not the real form, or stands twice.
        """
        return checked(self._gpus)

    def samples(self, at: datetime, known: Iterable[str] = ()) -> tuple[GpuSample, ...]:
        """Nothing is known of what a GPU without a device does, and none is ever lost."""
        return tuple(GpuSample(gpu.uuid, at) for gpu in self._gpus)

    def links(self) -> Mapping[frozenset[str], int]:
        """The closeness that was given."""
        return self._links

    def watch(self) -> Watcher:
        """A watcher to whom nothing happens."""
        return Silence()


class Silence:
    """A watcher that nothing is ever reported to."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def wait(self, seconds: float) -> tuple[tuple[str, Fault], ...]:
        """Nothing, after the time has passed."""
        self._closed.wait(seconds)
        return ()

    def close(self) -> None:
        """End the wait."""
        self._closed.set()


def checked(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The same GPUs, if each has a name that it can be leased by.

    Raises:
        InventoryError: a UUID has not the real form, or stands twice.
    """
    seen: dict[str, Gpu] = {}
    for gpu in gpus:
        place = f"GPU {gpu.index} of {gpu.node}"
        if not re.fullmatch(MIG_UUID if gpu.parent else GPU_UUID, gpu.uuid):
            form = "a MIG instance is leased as `MIG-`" if gpu.parent else "a GPU is leased as `GPU-`"
            raise InventoryError(f"{place} is called {gpu.uuid!r}; {form} and a UUID.", ADMIN)
        if gpu.uuid in seen:
            raise InventoryError(f"{place} has the same UUID as GPU {seen[gpu.uuid].index}: {gpu.uuid}.", ADMIN)
        seen[gpu.uuid] = gpu
    return gpus

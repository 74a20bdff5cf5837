"""What one of NVIDIA's GPUs is doing now: utilisation, memory, temperature, processes, and faults.

Owns the questions to NVML about it and the reading of its answers. Never starts or ends NVML, and never judges a fault
(`health` does). What a GPU does not support is None, never zero and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from spawner.inventory import session
from spawner.records import Fault, GpuProcess, GpuSample

_MIB = 1 << 20


class Look:
    """Questions about one GPU, and the faults that their answers amount to."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.faults: list[Fault] = []

    def ask(self, what: str, question: Callable[[], Any]) -> Any:
        """The answer; None where there is none. An error that is more than *cannot tell* becomes a fault."""
        try:
            return question()
        except self.nvml.NVMLError as error:
            if session.is_lost(self.nvml, error):
                self.faults.append(Fault("lost", f"The GPU does not answer its driver ({error}).", int(error.value)))
            elif not session.cannot_tell(self.nvml, error):
                self.faults.append(Fault("nvml", f"The driver failed to tell its {what} ({error}).", int(error.value)))
            return None


def sample(nvml: Any, handle: object, uuid: str, at: datetime, card: object = None) -> GpuSample:
    """Look at one GPU or MIG instance.

    Args:
        nvml: the NVML library, started.
        handle: NVML's handle of it.
        uuid: its UUID.
        at: the present moment.
        card: the handle of the card that a MIG instance is a part of. It knows the temperature, and its faults are the
            instance's.
    """
    look = Look(nvml)
    card = handle if card is None else card
    rates = look.ask("utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    memory = look.ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    temperature = look.ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU))
    if temperature is None:
        # NVIDIA has announced the end of the older question.
        temperature = look.ask("temperature", lambda: nvml.nvmlDeviceGetTemperatureV(card, nvml.NVML_TEMPERATURE_GPU))
    found = processes(look, handle)
    memory_faults(look, card)
    return GpuSample(
        uuid=uuid,
        at=at,
        utilisation=None if rates is None else int(rates.gpu),
        memory_used_mib=None if memory is None else int(memory.used) // _MIB,
        temperature=None if temperature is None else int(temperature),
        processes=found,
        faults=tuple(dict.fromkeys(look.faults)),
    )


def processes(look: Look, handle: object) -> tuple[GpuProcess, ...] | None:
    """What runs on it, directly or by NVIDIA's multi-process service, by process id; None where the driver does not tell."""
    nvml = look.nvml
    found: dict[int, GpuProcess] = {}
    # The versioned names: with the others, a driver that is older than nvidia-ml-py is told by an exception of another tree.
    for question in (nvml.nvmlDeviceGetComputeRunningProcesses_v3, nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3):
        told = look.ask("processes", partial(question, handle))
        # A driver without the service's question has no processes under it.
        if told is None and (look.faults or question is nvml.nvmlDeviceGetComputeRunningProcesses_v3):
            return None
        for one in told or ():
            used = None if one.usedGpuMemory is None else int(one.usedGpuMemory) // _MIB
            found[int(one.pid)] = GpuProcess(int(one.pid), used)
    shares = percents(nvml, handle) if found else None
    if shares is None:
        return tuple(found[pid] for pid in sorted(found))
    return tuple(GpuProcess(pid, found[pid].memory_mib, shares.get(pid, 0)) for pid in sorted(found))


def percents(nvml: Any, handle: object) -> Mapping[int, int] | None:
    """Process id → the most that it used the GPU in the driver's latest samples, in percent; None where the driver does not tell.

    The driver keeps samples of some seconds, and answers *not found* where nothing computed in them. An error costs nobody
    anything: what is wrong with the GPU, the other questions find.

    Source: NVML API reference, `nvmlDeviceGetProcessUtilization`.
    """
    try:
        told = nvml.nvmlDeviceGetProcessUtilization(handle, 0)
    except nvml.NVMLError as error:
        return {} if error.value == nvml.NVML_ERROR_NOT_FOUND else None
    found: dict[int, int] = {}
    for one in told:
        pid, most = int(one.pid), max(int(one.smUtil), int(one.encUtil), int(one.decUtil))
        found[pid] = max(found.get(pid, 0), min(most, 100))
    return found


def memory_faults(look: Look, card: object) -> None:
    """Uncorrected errors since the driver was loaded, and memory that is or should be replaced."""
    nvml = look.nvml
    errors = look.ask(
        "memory errors",
        lambda: nvml.nvmlDeviceGetTotalEccErrors(card, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
    )
    if errors:
        had = "an uncorrected memory error" if errors == 1 else f"{errors} uncorrected memory errors"
        look.faults.append(Fault("ecc", f"It had {had} since it was last reset.", int(errors)))
    rows = look.ask("remapped rows", lambda: nvml.nvmlDeviceGetRemappedRows(card))
    if rows and rows[3]:
        look.faults.append(Fault("remap", "A defective row of its memory could not be replaced.", 2))
    elif rows and rows[2]:
        look.faults.append(Fault("remap", "A defective row of its memory waits for a reset to be replaced.", 1))
    # Cards before Ampere retire whole pages instead.
    if rows is None and look.ask("retired pages", lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(card)):
        look.faults.append(Fault("remap", "A defective page of its memory waits for a reset to be retired.", 1))


def lost(
    seen: Mapping[str, str], found: Iterable[str], cards: Iterable[str], at: datetime, error: str = ""
) -> tuple[GpuSample, ...]:
    """Samples of the GPUs that should be there and are not.

    A MIG instance whose card still answers was removed by an admin, and a card that is split now is there: neither is lost.

    Args:
        seen: UUID of each GPU and MIG instance that was there before, and of the card that an instance is a part of.
        found: UUIDs that were sampled now.
        cards: UUIDs of the cards that answer now, split or not.
        at: the present moment.
        error: what the driver says instead; '' where it says nothing.
    """
    there, answering = set(found), set(cards)
    fault = Fault("lost", f"It does not answer its driver ({error})." if error else "The driver does not list it any more.")
    return tuple(
        GpuSample(uuid, at, faults=(fault,))
        for uuid, parent in seen.items()
        if uuid not in there and uuid not in answering and parent not in answering
    )

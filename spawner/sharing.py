"""Which units can be leased: whole GPUs, MIG instances, and the seats of shared GPUs.

Owns how lab.yaml's `gpus.sharing` turns devices into units, which units suit a request, and which are free. Never asks a driver
and never chooses (`placement` does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from spawner.grants import SharingRule
from spawner.model import Gpu, GpuRequest

NOT_ISOLATED = "memory is not isolated"


def units(gpus: Iterable[Gpu], rules: Sequence[SharingRule]) -> tuple[Gpu, ...]:
    """Every leasable unit: a device that a rule names becomes its seats, any other stays one unit.

    A seat has the device's UUID, `#` and its number from 0, and its share of the memory.
    """
    found: list[Gpu] = []
    for gpu in gpus:
        rule = next((rule for rule in rules if gpu.uuid in rule.gpus or gpu.model in rule.models), None)
        if rule is None:
            found.append(gpu)
            continue
        share = gpu.memory_mib // rule.seats
        found.extend(
            dataclasses.replace(gpu, uuid=f"{gpu.uuid}#{seat}", memory_mib=share, seats=rule.seats) for seat in range(rule.seats)
        )
    return tuple(found)


def kind(gpu: Gpu) -> str:
    """`exclusive`, `mig` or `shared`."""
    if gpu.seats:
        return "shared"
    return "mig" if gpu.parent else "exclusive"


def suits(gpu: Gpu, request: GpuRequest) -> bool:
    """Whether a unit is of the kind, model and size that the request asks for."""
    return (
        kind(gpu) == request.sharing
        and (not request.gpu_models or gpu.model in request.gpu_models)
        and gpu.memory_mib >= request.gpu_memory_mib
    )


def free(gpus: Iterable[Gpu], taken: Iterable[str]) -> tuple[Gpu, ...]:
    """The units that no lease holds, not even in another shape.

    A GPU that is leased whole has no free seat, one with a taken seat is not free as a whole, and the same holds for a GPU and
    its MIG instances: lab.yaml or the card may have changed while a lease went on.
    """
    held = set(taken)
    devices = {uuid.partition("#")[0] for uuid in held}
    whole = {uuid for uuid in held if "#" not in uuid}
    listed = list(gpus)
    split = {gpu.parent for gpu in listed if gpu.parent and gpu.device in devices}
    return tuple(
        gpu
        for gpu in listed
        if gpu.uuid not in held
        and not (gpu.seats and gpu.device in whole)
        and not (not gpu.seats and gpu.device in devices)
        and gpu.parent not in whole
        and gpu.uuid not in split
    )


def distinct(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """One unit of each device: two seats of one GPU are not two GPUs."""
    return tuple({gpu.device: gpu for gpu in sorted(gpus, key=lambda g: g.uuid, reverse=True)}.values())

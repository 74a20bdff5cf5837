"""Which units can be leased: whole GPUs, MIG instances, and the seats of shared GPUs.

Owns how lab.yaml's `gpus.sharing` turns devices into units, which units suit a request, and which are free. Never asks a driver
and never chooses (`placement` does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

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


def note(units: Iterable[str]) -> str:
    """What whoever sees these units must know: `NOT_ISOLATED` where one of them is a seat, else ''."""
    return NOT_ISOLATED if any("#" in uuid for uuid in units) else ""


def note_of_kind(kind: str) -> str:
    """The same for what a profile or a request asks for: `exclusive`, `mig` or `shared`."""
    return NOT_ISOLATED if kind == "shared" else ""


def suits(gpu: Gpu, request: GpuRequest) -> bool:
    """Whether a unit is of the kind, model and size that the request asks for."""
    # The cheapest question first: on a big lab this is asked of a thousand units for each request.
    return (
        (not request.gpu_models or gpu.model in request.gpu_models)
        and gpu.memory_mib >= request.gpu_memory_mib
        and kind(gpu) == request.sharing
    )


def suitable(gpus: Iterable[Gpu], request: GpuRequest) -> list[Gpu]:
    """The units that suit a request."""
    # On a big lab hardly any of a thousand units may be of the model: the others are not worth a call.
    models = frozenset(request.gpu_models)
    return [gpu for gpu in gpus if (not models or gpu.model in models) and suits(gpu, request)]


def near(gpus: Sequence[Gpu], request: GpuRequest) -> list[Gpu]:
    """The units that suit a request, and the MIG instances that they are split into: all that its choice can depend on."""
    found = suitable(gpus, request)
    split = [gpu for gpu in gpus if gpu.parent] if request.sharing == "exclusive" else ()
    whole = {gpu.uuid for gpu in found} if split else ()
    return [*found, *(gpu for gpu in split if gpu.parent in whole)]


def devices(gpus: Iterable[Gpu]) -> frozenset[str]:
    """Names under which somebody may hold one of these units, in whatever shape; a seat is held under its device's."""
    return frozenset(name for gpu in gpus for name in (gpu.device, gpu.parent) if name)


def free(gpus: Iterable[Gpu], taken: Iterable[str], among: Sequence[Gpu] = ()) -> tuple[Gpu, ...]:
    """The units that no lease holds, not even in another shape.

    Args:
        gpus: the units that are asked about.
        taken: UUIDs of the units that leases hold.
        among: every unit of the lab, where others than those asked about may be held.

    A GPU that is leased whole has no free seat, one with a taken seat is not free as a whole, and the same holds for a GPU and
    its MIG instances: lab.yaml or the card may have changed while a lease went on.
    """
    held = set(taken)
    whole = {uuid for uuid in held if "#" not in uuid}
    devices = whole if len(whole) == len(held) else whole | {uuid.partition("#")[0] for uuid in held}
    listed = list(gpus)
    split = {gpu.parent for gpu in among or listed if gpu.parent and gpu.device in devices}
    return tuple(
        gpu
        for gpu in listed
        # A unit without seats is its device.
        if gpu.uuid not in (held if gpu.seats else devices)
        and not (gpu.seats and gpu.device in whole)
        and not (gpu.parent and gpu.parent in whole)
        and gpu.uuid not in split
    )


def distinct(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """One unit of each device: two seats of one GPU are not two GPUs."""
    return tuple({gpu.device: gpu for gpu in sorted(gpus, key=lambda g: g.uuid, reverse=True)}.values())


def most_on_one_node(gpus: Iterable[Gpu], request: GpuRequest) -> int:
    """The most devices on one node that suit a request, free or not."""
    devices: dict[str, set[str]] = {}
    for gpu in gpus:
        if suits(gpu, request):
            devices.setdefault(gpu.node, set()).add(gpu.device)
    return max((len(found) for found in devices.values()), default=0)


def fits_one_node(gpus: Iterable[Gpu], request: GpuRequest) -> bool:
    """Whether some node has enough devices that suit a request, free or not; looks no further than the first such node."""
    devices: dict[str, set[str]] = {}
    for gpu in gpus:
        if suits(gpu, request):
            found = devices.setdefault(gpu.node, set())
            found.add(gpu.device)
            if len(found) >= request.gpus:
                return True
    return False


def until(gpus: Sequence[Gpu], held: Iterable[tuple[str, datetime | None]], now: datetime) -> dict[str, datetime | None]:
    """Unit → from when on no lease holds it in any shape, by the rule of `free`; None where that is not known.

    Args:
        gpus: units.
        held: pairs of a held unit's UUID and the end of its lease; None where nobody knows.
        now: the moment of units that nobody holds.
    """
    parents = {gpu.device: gpu.parent for gpu in gpus if gpu.parent}
    units: dict[str, datetime | None] = {}
    devices: dict[str, datetime | None] = {}
    split: dict[str, datetime | None] = {}
    for uuid, end in held:
        device = uuid.partition("#")[0]
        for latest, name in ((units, uuid), (devices, device), (split, parents.get(device, ""))):
            known = latest.get(name, end)
            latest[name] = None if end is None or known is None else max(end, known)
    found: dict[str, datetime | None] = {}
    for gpu in gpus:
        ends = [units.get(gpu.uuid, now), units.get(gpu.device, now) if gpu.seats else devices.get(gpu.device, now)]
        ends += [units.get(gpu.parent, now) if gpu.parent else now, split.get(gpu.uuid, now)]
        known_ends = [end for end in ends if end is not None]
        found[gpu.uuid] = max(known_ends) if len(known_ends) == len(ends) else None
    return found


def soonest(gpus: Iterable[Gpu], until: Mapping[str, datetime | None]) -> tuple[list[tuple[datetime, str]], ...]:
    """Per node, the moment and unit of each device that is free at a known moment, soonest first; one unit of each device."""
    nodes: dict[str, dict[str, tuple[datetime, str]]] = {}
    for gpu in gpus:
        moment = until[gpu.uuid]
        if moment is not None:
            devices = nodes.setdefault(gpu.node, {})
            devices[gpu.device] = min(devices.get(gpu.device, (moment, gpu.uuid)), (moment, gpu.uuid))
    return tuple(sorted(devices.values()) for devices in nodes.values())

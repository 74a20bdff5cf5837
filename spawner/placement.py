"""Chooses which GPUs a request gets.

Owns the choice among free GPUs and the words of the refusal when there are too few. Never writes and never asks
a device; it runs inside the ledger's transaction on the leases seen there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from spawner import sharing
from spawner.errors import NoGpuFree
from spawner.model import Gpu, GpuRequest, Lease, LeaseState

Choose = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]

# Holders that a refusal names; it is one sentence for one person.
MOST_NAMES = 8


def packed(request: GpuRequest, gpus: Sequence[Gpu], active: Sequence[Lease]) -> tuple[str, ...]:
    """Take the wanted number of GPUs from one node, of one model where that is possible.

    Among nodes that fit, the one with the fewest free GPUs left is taken, so that whole nodes stay free for big
    requests; within it, one model before a mixture, then the lowest index.

    Args:
        request: what is asked.
        gpus: every GPU of the lab.
        active: all leases that are not released.

    Returns:
        UUIDs in index order; empty for a request without GPUs.

    Raises:
        NoGpuFree: no node has that many suitable GPUs free.
    """
    if request.gpus == 0:
        return ()
    taken = [uuid for lease in active if lease.state is not LeaseState.RELEASED for uuid in lease.gpus]
    free = [g for g in sharing.free(gpus, taken) if sharing.suits(g, request)]
    if any(g.seats for g in free):
        free = list(sharing.distinct(free))
    nodes: dict[str, list[Gpu]] = {}
    for gpu in free:
        nodes.setdefault(gpu.node, []).append(gpu)
    fitting = [nodes[name] for name in sorted(nodes) if len(nodes[name]) >= request.gpus]
    if not fitting:
        raise _refusal(request, [g for g in gpus if sharing.suits(g, request)], free, active)
    node = min(fitting, key=len)
    node.sort(key=_place)
    by_model = [list(members) for _, members in groupby(sorted(node, key=lambda g: g.model), key=lambda g: g.model)]
    alike = [same for same in by_model if len(same) >= request.gpus]
    pool = min(alike, key=len) if alike else node
    chosen = sorted(pool, key=_place)[: request.gpus]
    return tuple(g.uuid for g in chosen)


def _place(gpu: Gpu) -> tuple[int, str]:
    return (gpu.index, gpu.uuid)


def _refusal(request: GpuRequest, suitable: Sequence[Gpu], free: Sequence[Gpu], active: Sequence[Lease]) -> NoGpuFree:
    devices = {(g.node, g.device) for g in suitable}
    wanted, total = request.gpus, len({device for _, device in devices})
    on_one_node = max(Counter(node for node, _ in devices).values(), default=0)
    what = f"{wanted} GPU{'s' if wanted != 1 else ''}"
    if wanted > on_one_node:
        have = f"{total} such GPU{'s' if total != 1 else ''}" if request.gpu_models else f"{total} in all"
        if wanted <= total:
            have = f"at most {on_one_node} on one server"
        total = on_one_node
        return NoGpuFree(
            f"You asked for {what}; this lab has {have}.",
            "Ask for fewer.",
            wanted=wanted,
            free=len(free),
            total=total,
        )
    names = {g.uuid for g in suitable}
    held = []
    for lease in active:
        count = len(names & set(lease.gpus))
        if count:
            ending = ", ending" if lease.state is LeaseState.DRAINING else ""
            held.append(f"{lease.holder} ({count} GPU{'s' if count != 1 else ''}{ending})")
    if len(held) > MOST_NAMES:
        held[MOST_NAMES - 1 :] = [f"{len(held) - MOST_NAMES + 1} others"]
    holders = f" Held by {', '.join(held)}." if held else ""
    verb = "is" if len(free) == 1 else "are"
    return NoGpuFree(
        f"You asked for {what}; {len(free)} of {total} {verb} free.{holders}",
        "Start without a GPU meanwhile, or try again when one is given back.",
        wanted=wanted,
        free=len(free),
        total=total,
    )

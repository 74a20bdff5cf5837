"""Chooses which GPUs a request gets.

Owns the choice among free GPUs and the words of the refusal when there are too few. Never writes and never asks
a device; it runs inside the ledger's transaction on the leases seen there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, groupby
from math import comb

from spawner import sharing
from spawner.errors import NoGpuFree
from spawner.model import Gpu, GpuRequest, Lease, LeaseState

Choose = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]
Links = Mapping[frozenset[str], int]
# Up to this many groups all are compared; beyond, groups are grown from so many GPUs. It runs inside a transaction.
_MOST_GROUPS, _MOST_SEEDS = 500, 16

# Holders that a refusal names; it is one sentence for one person.
MOST_NAMES = 8


def packed(request: GpuRequest, gpus: Sequence[Gpu], active: Sequence[Lease], links: Links | None = None) -> tuple[str, ...]:
    """Take the wanted number of GPUs from one node, of one model where that is possible.

    Among nodes that fit, the one with the fewest free GPUs left is taken, so that whole nodes stay free for big
    requests; within it, one model before a mixture, then those that are closest to each other, then the lowest index.

    Args:
        request: what is asked.
        gpus: every GPU of the lab.
        active: all leases that are not released.
        links: how close pairs of GPUs are, as the inventory says; without them, all are as far.

    Returns:
        UUIDs in index order; empty for a request without GPUs.

    Raises:
        NoGpuFree: no node has that many suitable GPUs free.
    """
    if request.gpus == 0:
        return ()
    taken = [uuid for lease in active if lease.state is not LeaseState.RELEASED for uuid in lease.gpus]
    suitable = sharing.suitable(gpus, request)
    free = list(sharing.free(suitable, taken, gpus))
    if any(g.seats for g in free):
        free = list(sharing.distinct(free))
    nodes: dict[str, list[Gpu]] = {}
    for gpu in free:
        nodes.setdefault(gpu.node, []).append(gpu)
    fitting = [nodes[name] for name in sorted(nodes) if len(nodes[name]) >= request.gpus]
    if not fitting:
        raise _refusal(request, suitable, free, active)
    node = min(fitting, key=len)
    node.sort(key=_place)
    by_model = [list(members) for _, members in groupby(sorted(node, key=lambda g: g.model), key=lambda g: g.model)]
    alike = [same for same in by_model if len(same) >= request.gpus]
    pools = sorted(alike, key=len) if alike else [node]
    groups = [tightest(sorted(pool, key=_place), request.gpus, links or {}) for pool in pools]
    return tuple(g.uuid for g in min(groups, key=lambda group: _looseness(group, links or {})))


def tightest(pool: Sequence[Gpu], wanted: int, links: Links) -> tuple[Gpu, ...]:
    """The group of GPUs that are closest to each other: by its widest gap, then by all of them.

    Among equally close groups the one is taken whose GPUs are the farthest from those that stay free, so that a group that
    is whole stays whole; then the lowest ones. The work is bounded however many GPUs there are; beyond some hundred possible
    groups the answer is a good one, and the best where closeness has the form of a tree.

    Args:
        pool: free GPUs of one node, in the order of preference; at least as many as are wanted.
        wanted: size of the group.
        links: how close pairs of GPUs are.

    Returns:
        The group in the order of the pool.
    """
    if not links or wanted >= len(pool):
        return tuple(pool[:wanted])
    close = [[links.get(frozenset((one.device, other.device)), 0) for other in pool] for one in pool]
    total = [sum(row) - row[i] for i, row in enumerate(close)]
    every = range(len(pool))
    if comb(len(pool), wanted) <= _MOST_GROUPS:
        groups: Iterable[tuple[int, ...]] = combinations(every, wanted)
    else:
        groups = [_grown(seed, wanted, close, total) for seed in every[:: -(-len(pool) // _MOST_SEEDS)]]

    def rank(group: tuple[int, ...]) -> tuple[int, int, int, tuple[int, ...]]:
        pairs = [close[one][other] for one, other in combinations(group, 2)]
        inside = sum(pairs)
        return -min(pairs, default=0), -inside, sum(total[i] for i in group) - 2 * inside, group

    return tuple(pool[i] for i in min(groups, key=rank))


def _grown(seed: int, wanted: int, close: Sequence[Sequence[int]], total: Sequence[int]) -> tuple[int, ...]:
    """A group that takes in the closest GPU again and again."""
    group = [seed]
    gap, inside = list(close[seed]), list(close[seed])
    rest = set(range(len(close))) - {seed}
    while len(group) < wanted:
        # Of equally close ones the least connected: it breaks up the least.
        best = min(rest, key=lambda i: (-gap[i], -inside[i], total[i], i))
        rest.remove(best)
        group.append(best)
        for i in rest:
            gap[i] = min(gap[i], close[best][i])
            inside[i] += close[best][i]
    return tuple(sorted(group))


def _looseness(group: Sequence[Gpu], links: Links) -> tuple[int, int]:
    pairs = [links.get(frozenset((one.device, other.device)), 0) for one, other in combinations(group, 2)]
    return -min(pairs, default=0), -sum(pairs)


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

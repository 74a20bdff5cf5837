"""Renders a `ContainerSpec`: everything about a lab's container that follows from lease, profile and lab.yaml.

Owns labels, environment, limits and the kind of device request. A pure function of its arguments, computed afresh
on each start: nothing of yesterday's container survives. Never talks to an engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from spawner import volumes
from spawner.errors import InventoryError
from spawner.model import ContainerSpec, DeviceRequest, EngineFacts, Gpu, LabConfig, Lease, Profile

LABEL_LAB = "io.gpulab.lab"
LABEL_LEASE = "io.gpulab.lease"
LABEL_USER = "io.gpulab.user"
LABEL_SERVER = "io.gpulab.server"
LABEL_PROFILE = "io.gpulab.profile"
LABEL_GPUS = "io.gpulab.gpus"
# No image and no person may set these: they decide which devices the NVIDIA runtime hands over.
GUARDED_ENV = ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD")


def render(
    config: LabConfig,
    profile: Profile,
    lease: Lease,
    gpus: Sequence[Gpu],
    facts: EngineFacts,
    base_env: Mapping[str, str],
    *,
    data_writable: bool,
) -> ContainerSpec:
    """Compute the container of a lease.

    Args:
        config: lab.yaml.
        profile: the profile of the request.
        lease: what the ledger promised; its GPUs are the only ones the container gets.
        gpus: the inventory, to look up the leased GPUs in.
        facts: what the engine can do.
        base_env: the hub's variables (API token and URLs); guarded names in it are dropped.
        data_writable: the person may write data sets.

    Raises:
        InventoryError: a leased GPU is not in the inventory any more.
    """
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    if gone := sorted(set(lease.gpus) - set(by_uuid)):
        raise InventoryError(f"A GPU that was set aside for you is gone: {', '.join(gone)}.", "Start again; tell your admin.")
    leased = tuple(by_uuid[uuid] for uuid in lease.gpus)
    return ContainerSpec(
        name=volumes.container_name(config.name, lease.holder),
        image=profile.image or config.image,
        user=f"{config.limits.uid}:{config.limits.gid}",
        env=_environment(profile, lease, leased, base_env),
        labels={
            LABEL_LAB: config.name,
            LABEL_LEASE: lease.id,
            LABEL_USER: lease.holder.user,
            LABEL_SERVER: lease.holder.server,
            LABEL_PROFILE: profile.key,
            LABEL_GPUS: ",".join(lease.gpus),
        },
        mounts=volumes.mounts(config, lease.holder, data_writable=data_writable),
        devices=_devices(leased, facts),
        cpus=profile.cpus,
        memory=profile.memory,
        shm=profile.shm,
        pids=profile.pids,
        network=config.network.name,
    )


def _environment(profile: Profile, lease: Lease, leased: Sequence[Gpu], base_env: Mapping[str, str]) -> dict[str, str]:
    env = {name: value for name, value in base_env.items() if name not in GUARDED_ENV}
    # An image may bake `all`, and the host's default runtime may be nvidia's: an explicit value always wins.
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpu.device for gpu in leased) or "void"
    if leased and not any(gpu.simulated for gpu in leased):
        env["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    env["GPULAB_PROFILE"] = profile.key
    env["GPULAB_LEASE"] = lease.id
    env["GPULAB_GPUS"] = json.dumps(
        [
            {"uuid": g.device, "model": g.model, "memory_mib": g.memory_mib, "simulated": g.simulated, "seats": g.seats}
            for g in leased
        ]
    )
    return env


def _devices(leased: Sequence[Gpu], facts: EngineFacts) -> DeviceRequest | None:
    real = tuple(gpu.device for gpu in leased if not gpu.simulated)
    if not real:
        return None
    if facts.cdi:
        return DeviceRequest("cdi", tuple(f"nvidia.com/gpu={uuid}" for uuid in real))
    return DeviceRequest("nvidia", real)

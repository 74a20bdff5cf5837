"""G4 on real engines: from inside, a container has exactly the device nodes of its lease, on both request paths."""

from __future__ import annotations

import contextlib
import json

import pytest

from spawner.errors import EngineError
from spawner.model import DeviceRequest, Gpu, Presence
from tests.engine.lab import EngineLab
from tests.support.modern_engine import GPUS, modern_engine

A, B, C = GPUS
VISIBLE = "NVIDIA_VISIBLE_DEVICES"


def test_an_engine_with_cdi_is_asked_by_cdi(cdi_lab: EngineLab) -> None:
    devices = cdi_lab.spec(A)[1].devices
    assert cdi_lab.facts.cdi
    assert devices == DeviceRequest("cdi", (f"nvidia.com/gpu={A.uuid}",))


def test_an_engine_without_cdi_is_asked_by_the_nvidia_driver(legacy_lab: EngineLab) -> None:
    devices = legacy_lab.spec(A)[1].devices
    assert not legacy_lab.facts.cdi
    assert devices == DeviceRequest("nvidia", (A.uuid,))


@pytest.mark.parametrize("leased", [(A,), (B,), (A, B), (A, C)], ids=["A", "B", "A+B", "A+C"])
def test_a_gpu_lease_has_exactly_its_own_devices(gpu_lab: EngineLab, leased: tuple[Gpu, ...]) -> None:
    inside = gpu_lab.start(*leased)
    assert inside.devices() == {f"nvidia{gpu.index}" for gpu in leased}
    assert inside.declared_environment()[VISIBLE] == ",".join(gpu.uuid for gpu in leased)
    assert [gpu["uuid"] for gpu in json.loads(inside.own_environment()["GPULAB_GPUS"])] == [gpu.uuid for gpu in leased]


def test_the_first_process_sees_an_explicit_value(gpu_lab: EngineLab) -> None:
    # NVIDIA's CDI specification sets `void`, so that an NVIDIA runtime beneath adds nothing to what CDI gave.
    expected = "void" if gpu_lab.facts.cdi else A.uuid
    assert gpu_lab.start(A).own_environment()[VISIBLE] == expected


@pytest.mark.parametrize("baked", [False, True], ids=["plain-image", "image-that-bakes-all"])
def test_a_cpu_lease_has_no_device_and_void(gpu_lab: EngineLab, baked: bool) -> None:
    inside = gpu_lab.start(image=gpu_lab.baked_image if baked else "")
    assert inside.devices() == set()
    assert inside.own_environment()[VISIBLE] == "void"
    assert inside.declared_environment()[VISIBLE] == "void"


def test_a_gpu_lease_is_exact_also_from_an_image_that_bakes_all(gpu_lab: EngineLab) -> None:
    assert gpu_lab.start(B, image=gpu_lab.baked_image).devices() == {"nvidia1"}


def test_two_leases_at_once_see_different_devices(gpu_lab: EngineLab) -> None:
    first, second = gpu_lab.start(A), gpu_lab.start(B, user="ben")
    assert (first.devices(), second.devices()) == ({"nvidia0"}, {"nvidia1"})


def test_a_gpu_that_the_engine_does_not_know_is_refused_by_name(gpu_lab: EngineLab, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Gpu("GPU-dddddddd-1111-4222-8333-444444444444", "stand-in", 3, "NVIDIA Stand-in", 24576)
    monkeypatch.setattr(gpu_lab.private, "gpus", (*GPUS, stranger))
    inside = gpu_lab.create(stranger)
    with pytest.raises(EngineError) as refused:
        gpu_lab.engine.start(inside.id)
    assert stranger.uuid in str(refused.value.__cause__)
    assert gpu_lab.engine.presence(inside.lease.id) is not Presence.RUNNING


# --- a host whose default runtime is NVIDIA's ---------------------------------


def test_the_danger_is_real_without_an_explicit_value(runtime_lab: EngineLab) -> None:
    """The control: what plain Docker gives a container of such an image on such a host."""
    client = runtime_lab.engine.client
    made = client.create_container(runtime_lab.baked_image, ["ls", "/dev"], labels={"io.gpulab.lab": runtime_lab.name})
    client.start(made["Id"])
    client.wait(made["Id"])
    assert {"nvidia0", "nvidia1", "nvidia2"} <= set(client.logs(made["Id"]).decode().split())


@pytest.mark.parametrize("leased", [(), (B,)], ids=["none", "B"])
def test_the_default_runtime_adds_nothing_to_a_lease(runtime_lab: EngineLab, leased: tuple[Gpu, ...]) -> None:
    assert runtime_lab.facts.default_runtime == "nvidia"
    inside = runtime_lab.start(*leased, image=runtime_lab.baked_image)
    assert inside.devices() == {f"nvidia{gpu.index}" for gpu in leased}


# --- a modern engine whose CDI is switched off ----------------------------------


def test_a_modern_engine_with_cdi_off_is_not_asked_by_cdi() -> None:
    with modern_engine(cdi=False) as private, contextlib.closing(EngineLab(private, "gpulab-test-off")) as lab:
        assert not lab.facts.cdi
        with pytest.raises(EngineError, match="could not select device driver"):
            lab.start(A)
        assert lab.start().devices() == set()

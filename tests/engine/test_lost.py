"""A container that lost its GPUs is found out from outside, on both request paths; one that did not is not suspected."""

from __future__ import annotations

import pytest

from spawner.vitals import VitalsReader
from tests.engine.lab import EngineLab, Inside
from tests.support.modern_engine import GPUS

A, B, _ = GPUS


def as_root(inside: Inside, script: str) -> None:
    client = inside.engine.client
    made = client.exec_create(inside.id, ["sh", "-c", script], user="0")
    output = client.exec_start(made["Id"])
    assert client.exec_inspect(made["Id"])["ExitCode"] == 0, output


def program(inside: Inside, name: str, *lines: str) -> None:
    """Put a shell script into the container's PATH."""
    body = "\\n".join(("#!/bin/sh", *lines, ""))
    as_root(inside, f"printf '{body}' >/bin/{name} && /bin/busybox chmod 755 /bin/{name}")


@pytest.fixture
def inside(gpu_lab: EngineLab) -> Inside:
    return gpu_lab.start(A, B)


@pytest.fixture
def vitals(gpu_lab: EngineLab) -> VitalsReader:
    return VitalsReader(gpu_lab.engine, gpu_lab.name)


def test_a_container_with_its_gpus_has_lost_nothing(inside: Inside, vitals: VitalsReader) -> None:
    assert vitals.lost(inside.id) == ""


def test_devices_that_are_gone(inside: Inside, vitals: VitalsReader) -> None:
    as_root(inside, "/bin/busybox rm /dev/nvidia0 /dev/nvidia1")
    assert vitals.lost(inside.id) == "its devices are gone"


def test_a_device_that_cannot_be_opened_any_more(inside: Inside, vitals: VitalsReader) -> None:
    # What a reload of the host's services does is to take the right to open it; the node stays.
    as_root(inside, "/bin/busybox chmod 0 /dev/nvidia1")
    assert vitals.lost(inside.id) == "nvidia1 cannot be opened"
    as_root(inside, "/bin/busybox chmod 666 /dev/nvidia1")
    assert vitals.lost(inside.id) == ""


def test_nvidias_own_word_for_it(inside: Inside, vitals: VitalsReader) -> None:
    program(inside, "timeout", "shift", 'exec "$@"')
    program(inside, "nvidia-smi", 'echo "GPU 0: stand-in"')
    assert vitals.lost(inside.id) == ""
    program(inside, "nvidia-smi", 'echo "Failed to initialize NVML: Unknown Error"', "exit 255")
    assert vitals.lost(inside.id) == "NVIDIA's driver does not answer inside it"
    program(inside, "nvidia-smi", 'echo "anything else"', "exit 1")
    assert vitals.lost(inside.id) is None


def test_a_container_that_cannot_be_looked_into_is_not_said_to_have_lost_anything(inside: Inside, vitals: VitalsReader) -> None:
    inside.engine.client.stop(inside.id, timeout=0)
    assert vitals.lost(inside.id) is None
    assert vitals.lost("0" * 64) is None


def test_what_a_lab_uses_is_counted_on_a_private_engine_too(inside: Inside, vitals: VitalsReader) -> None:
    before = vitals.read(inside.id)
    inside.says("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; /bin/busybox head -c 3000000 /dev/zero >/tmp/x")
    after = vitals.read(inside.id)
    assert before.cpu_seconds is not None
    assert after.cpu_seconds is not None
    assert after.cpu_seconds > before.cpu_seconds

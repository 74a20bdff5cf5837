"""*Unknown* is not gone: what the engine is asked about a lease, and what is said while it does not answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import DockerException
from requests import RequestException

from spawner.engine import ANSWER_SECONDS as DEFAULT_ANSWER_SECONDS
from spawner.engine import LOG_LINES, ONCE_MEMORY, ONCE_PIDS, Engine
from spawner.errors import EngineUnknown
from spawner.model import Presence
from tests.engine.lab import PORT, EngineLab, eventually

ANSWER_SECONDS, CALL_SECONDS = 0.5, 1.0


@pytest.fixture
def impatient(gpu_lab: EngineLab) -> Iterator[Engine]:
    """An open connection that waits half a second for an answer, and one for a call; only good for a stalled engine."""
    engine = gpu_lab.connect(answer_seconds=ANSWER_SECONDS, call_seconds=CALL_SECONDS)

    def open_both() -> bool:
        with contextlib.suppress(EngineUnknown, DockerException, RequestException):
            return bool(engine.facts() and engine.client.ping())
        return False

    assert eventually(open_both, bool)
    yield engine
    engine.close()


def test_a_lease_s_container_is_created_running_stopped_and_absent(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.create(command=("sh", "-c", "trap 'exit 3' TERM; sleep 3600 & wait"))
    lease, engine = inside.lease.id, gpu_lab.engine
    assert engine.presence(lease) is Presence.CREATED
    engine.start(inside.id)
    assert engine.presence(lease) is Presence.RUNNING
    engine.client.stop(inside.id, timeout=5)
    # The engine's list may lag a moment behind its own answer.
    assert eventually(lambda: engine.presence(lease), lambda p: p is Presence.STOPPED) is Presence.STOPPED
    assert engine.remains(lease).exit_code == 3
    engine.remove(lease)
    assert engine.presence(lease) is Presence.ABSENT


def test_removing_twice_is_success(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    gpu_lab.engine.remove(inside.lease.id, stop_seconds=0)
    gpu_lab.engine.remove(inside.lease.id, stop_seconds=0)
    assert gpu_lab.engine.presence(inside.lease.id) is Presence.ABSENT


def test_only_the_lab_s_own_containers_are_counted(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    gpu_lab.engine.client.create_container(gpu_lab.image, ["sleep", "1"], name=f"{gpu_lab.name}-stranger")
    try:
        assert gpu_lab.engine.survey(gpu_lab.name) == {inside.lease.id: Presence.RUNNING}
        assert gpu_lab.engine.survey(f"{gpu_lab.name}x") == {}
    finally:
        gpu_lab.engine.client.remove_container(f"{gpu_lab.name}-stranger")


def test_a_stalled_engine_is_unknown_in_time_and_right_afterwards(gpu_lab: EngineLab, impatient: Engine) -> None:
    running, gone = gpu_lab.start().lease.id, "0" * 32
    assert gpu_lab.engine.presence(gone) is Presence.ABSENT
    with gpu_lab.private.stalled():
        for lease in (running, gone):
            began = time.monotonic()
            assert impatient.presence(lease) is Presence.UNKNOWN
            # The lab's own limit, which a connection without one would have, is as far away as a loaded machine may be slow.
            assert time.monotonic() - began < DEFAULT_ANSWER_SECONDS
    assert gpu_lab.engine.presence(running) is Presence.RUNNING
    assert gpu_lab.engine.presence(gone) is Presence.ABSENT


def test_every_call_on_a_stalled_engine_ends_in_unknown_and_never_in_success(gpu_lab: EngineLab, impatient: Engine) -> None:
    inside = gpu_lab.start()
    calls = {
        "facts": impatient.facts,
        "survey": lambda: impatient.survey(gpu_lab.name),
        "image_present": lambda: impatient.image_present(gpu_lab.image),
        "remove": lambda: impatient.remove(inside.lease.id),
        "start": lambda: impatient.start(inside.id),
        "address": lambda: impatient.address(inside.id, gpu_lab.name),
        "ensure_network": lambda: impatient.ensure_network(gpu_lab.name, gpu_lab.name),
    }
    with gpu_lab.private.stalled():
        for name, call in calls.items():
            with pytest.raises(EngineUnknown, match="does not answer"):
                pytest.fail(f"{name} answered {call()!r}")
    assert gpu_lab.engine.presence(inside.lease.id) is Presence.RUNNING


def test_a_creation_given_up_on_may_still_appear_under_its_lease(gpu_lab: EngineLab, impatient: Engine) -> None:
    """Why one *absent* after a failed creation proves nothing: the request is on its way."""
    lease, spec = gpu_lab.spec(gpu_lab.private.gpus[0])
    with gpu_lab.private.stalled(), pytest.raises(EngineUnknown):
        impatient.create(spec, ["sleep", "1"], PORT)
    engine = gpu_lab.engine
    assert eventually(lambda: engine.presence(lease.id), lambda p: p is Presence.CREATED) is Presence.CREATED
    engine.remove(lease.id)
    assert engine.presence(lease.id) is Presence.ABSENT


def test_an_engine_that_is_down_is_unknown(tmp_path: Path) -> None:
    engine = Engine(f"unix://{tmp_path}/none.sock")
    try:
        assert engine.presence("0" * 32) is Presence.UNKNOWN
        with pytest.raises(EngineUnknown, match="does not answer"):
            engine.facts()
    finally:
        engine.close()


def test_the_network_is_made_once_and_removed_twice(gpu_lab: EngineLab) -> None:
    name = f"{gpu_lab.name}-second"
    gateway = gpu_lab.engine.ensure_network(name, gpu_lab.name)
    assert gpu_lab.engine.ensure_network(name, gpu_lab.name) == gateway
    gpu_lab.engine.remove_network(name)
    gpu_lab.engine.remove_network(name)


def test_a_running_lab_has_an_address_on_the_lab_s_network(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    gateway = gpu_lab.engine.ensure_network(gpu_lab.name, gpu_lab.name)
    address = gpu_lab.engine.address(inside.id, gpu_lab.name)
    assert address != gateway
    assert address.rpartition(".")[0].split(".")[:2] == gateway.split(".")[:2]


def test_run_once_gives_exit_code_and_output_and_leaves_nothing(gpu_lab: EngineLab) -> None:
    engine = gpu_lab.engine
    before = {found["Id"] for found in engine.client.containers(all=True)}
    code, output = engine.run_once(gpu_lab.image, ["sh", "-c", "id -u; exit 7"], mounts=(), user="1000:1000")
    assert (code, output) == (7, "1000\n")
    assert {found["Id"] for found in engine.client.containers(all=True)} == before


def test_what_is_run_once_has_bounded_memory_processes_and_output(gpu_lab: EngineLab) -> None:
    limits = "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; "
    limits += "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"
    _, output = gpu_lab.engine.run_once(gpu_lab.image, ["sh", "-c", limits], mounts=(), user="1000:1000")
    assert output.split() == [str(ONCE_PIDS), str(ONCE_MEMORY)]
    _, output = gpu_lab.engine.run_once(gpu_lab.image, ["sh", "-c", "seq 1 5000"], mounts=(), user="1000:1000")
    assert output.split()[0] == str(5001 - LOG_LINES)
    assert len(output.split()) == LOG_LINES

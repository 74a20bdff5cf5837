"""What a profile grants, as seen from inside the container: limits, rights, folders."""

from __future__ import annotations

import pytest

from spawner import evidence
from spawner.errors import EngineError
from spawner.model import Presence
from tests.engine.lab import CPUS, MEMORY, PIDS, SHM, EngineLab, eventually


@pytest.fixture
def status(gpu_lab: EngineLab) -> dict[str, str]:
    """The kernel's words about a process of a lab."""
    lines = gpu_lab.start().says("cat", "/proc/self/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_memory_and_swap_are_limited(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    assert int(inside.cgroup("memory", "memory.limit_in_bytes", "memory.max")) == MEMORY
    swap = inside.cgroup("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
    # Version 1 counts memory and swap together, version 2 swap alone; hosts without swap accounting have neither.
    assert int(swap or 0) in (MEMORY, 0)


def test_cpus_are_limited(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    # The control file of version 2 has both numbers in one line.
    quota = inside.cgroup("cpu", "cpu.cfs_quota_us", "cpu.max").split()
    period = quota[1:] or inside.cgroup("cpu", "cpu.cfs_period_us", "cpu.max").split()
    assert int(quota[0]) / int(period[0]) == CPUS


def test_processes_are_limited(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start()
    assert int(inside.cgroup("pids", "pids.max", "pids.max")) == PIDS
    code, output = inside.run("sh", "-c", f"for i in $(seq {PIDS + 20}); do sleep 30 & done")
    assert code != 0
    assert "fork" in output


def test_shared_memory_has_the_profile_s_size(gpu_lab: EngineLab) -> None:
    kib = gpu_lab.start().says("df", "-k", "/dev/shm").splitlines()[-1].split()[1]
    assert int(kib) << 10 == SHM


def test_a_lab_runs_as_lab_yaml_s_user_without_other_groups(gpu_lab: EngineLab) -> None:
    assert gpu_lab.start().says("id").split() == ["uid=1000(engineer)", "gid=1000", "groups=1000"]


def test_no_capability_can_be_had_or_regained(status: dict[str, str]) -> None:
    sets = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert set(sets.values()) == {0}
    assert status["NoNewPrivs"] == "1"


def test_a_lab_over_its_memory_is_ended_and_the_reason_is_kept(gpu_lab: EngineLab) -> None:
    inside = gpu_lab.start(command=("sh", "-c", "x=12345678; while true; do x=$x$x; done"))
    lease = inside.lease.id
    assert eventually(lambda: gpu_lab.engine.presence(lease), lambda p: p is Presence.STOPPED) is Presence.STOPPED
    remains = gpu_lab.engine.remains(lease)
    assert (remains.exit_code, remains.memory) == (137, MEMORY)
    # Engine 20.10 may hear of the end before its reason; then only the exit code of a killed process is left.
    told = evidence.why(remains, None, None)
    assert told.startswith(
        (
            f"The lab was stopped because it used more memory than its profile allows: the limit is {MEMORY >> 20} MB",
            "The lab was killed, most likely because it used more memory than its profile allows.",
        )
    )


def test_data_sets_are_read_only_unless_granted(gpu_lab: EngineLab) -> None:
    (gpu_lab.folder / "datasets" / "image.png").write_text("pixels")
    inside = gpu_lab.start()
    assert inside.says("cat", "/workspace/data/image.png") == "pixels"
    code, output = inside.run("touch", "/workspace/data/new")
    assert code != 0
    assert "Read-only" in output
    gpu_lab.start(data_writable=True).says("touch", "/workspace/data/new")
    assert (gpu_lab.folder / "datasets" / "new").exists()


def test_home_and_models_outlive_the_container(gpu_lab: EngineLab) -> None:
    first = gpu_lab.start()
    first.says("sh", "-c", "echo work > ~/notes; echo weights > /workspace/models/net.pt")
    gpu_lab.engine.remove(first.lease.id, stop_seconds=1)
    second = gpu_lab.start()
    assert second.says("cat", "/home/engineer/notes", "/workspace/models/net.pt").split() == ["work", "weights"]
    assert gpu_lab.start(user="ben").run("cat", "/home/engineer/notes")[0] != 0


def test_a_missing_folder_is_refused_and_not_made(gpu_lab: EngineLab) -> None:
    missing = gpu_lab.folder / "models"
    missing.rmdir()
    with pytest.raises(EngineError, match="models"):
        gpu_lab.start()
    assert not missing.exists()

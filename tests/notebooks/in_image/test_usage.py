from __future__ import annotations

import stat
from pathlib import Path

import pytest
from defectlab import lab, panel, usage
from defectlab.usage import GpuUse, Use

GIB = 1024**3


def write(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cgroup_2_tells_cpu_and_memory_without_the_cache(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "sys/fs/cgroup/memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    use = usage.now(tmp_path)
    assert (use.cpu_seconds, use.memory, use.shm) == (2.5, 2 * GIB, None)


def test_cgroup_1_does_too(tmp_path: Path) -> None:
    for name, text in {
        "cpuacct/cpuacct.usage": "1500000000\n",
        "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory/memory.stat": f"cache 7\ntotal_inactive_file {GIB}\n",
    }.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    use = usage.now(tmp_path)
    assert (use.cpu_seconds, use.memory) == (1.5, GIB)


def test_what_is_not_told_is_unknown_and_not_zero(tmp_path: Path) -> None:
    use = usage.now(tmp_path)
    assert (use.cpu_seconds, use.memory, use.shm) == (None, None, None)
    assert panel.shown(lab.Lab("", "", 2.0, 0, 0, ()), use, use)["memory"] == (0.0, "not known here")


def test_this_very_lab_tells() -> None:
    before = usage.now()
    sum(range(2_000_000))
    after = usage.now()
    busy = usage.cpus_busy(before, after)
    assert busy is not None
    assert 0.0 <= busy < 64
    assert after.memory
    assert usage.cpus_busy(after, after) is None


SMI = """\
GPU-1, 37, 1024, 24576
MIG-2, [N/A], 10, 5000
No devices were found
"""


def test_the_drivers_words_are_read(tmp_path: Path) -> None:
    command = tmp_path / "smi"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{SMI}END\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    assert usage.gpus([str(command)]) == (
        GpuUse("GPU-1", 0.37, 1024 * 1024**2, 24576 * 1024**2),
        GpuUse("MIG-2", None, 10 * 1024**2, 5000 * 1024**2),
    )
    assert usage.gpus([str(tmp_path / "none")]) == ()
    assert usage.gpus(["false"]) == ()


def test_the_panel_shows_shares_and_words() -> None:
    given = lab.Lab("gpu-1", "7", 4.0, 8 * GIB, 2 * GIB, (lab.Gpu("GPU-1", "L4", 24576, False),))
    gpu = GpuUse("GPU-1", 0.5, 6 * GIB, 24 * GIB)
    before, after = Use(0.0, 1.0, GIB, 0, (gpu,)), Use(2.0, 5.0, 2 * GIB, GIB, (gpu,))
    assert panel.shown(given, before, after) == {
        "CPUs": (0.5, "2.0 of 4"),
        "memory": (0.25, "2.00 of 8.0 GiB"),
        "shared memory": (0.5, "1.00 of 2.0 GiB"),
        "GPU 0": (0.5, "busy 50% of the time"),
        "GPU 0 memory": (0.25, "6.0 of 24.0 GiB"),
    }


@pytest.mark.parametrize(
    ("gpus", "seen", "said"),
    [
        ((), (), "This lab has no GPU."),
        ((lab.Gpu("GPU-1", "L4", 1, True),), (), "1 simulated GPU: there is no device behind it, so there is nothing to see."),
        ((lab.Gpu("GPU-1", "L4", 1, False),), (), "The driver does not answer, so the GPUs cannot be watched: tell your admin."),
        ((lab.Gpu("GPU-1", "L4", 1, False),), (GpuUse("GPU-1", None, 1, 1),), ""),
    ],
)
def test_the_panel_says_why_a_gpu_is_not_shown(gpus: tuple[lab.Gpu, ...], seen: tuple[GpuUse, ...], said: str) -> None:
    assert panel.note(lab.Lab("", "", 1.0, 0, 0, gpus), Use(0.0, None, None, None, seen)) == said


def test_the_panel_renews_itself_until_it_is_stopped() -> None:
    view = panel.LabPanel(live=False)
    view.refresh()
    assert " GiB" in view._words["memory"].value
    assert view._bars["memory"].value > 0
    view.stop()


def test_folders_tell_what_they_are_for_and_who_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPULAB_DATA", str(tmp_path / "none"))
    home, data, *_ = usage.folders()
    assert (home.path, home.there, home.writable) == (tmp_path, True, True)
    assert 0 < home.free <= home.total
    assert (data.there, data.writable, data.free) == (False, False, 0)

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from defectlab import lab

GIB = 1024**3
GPUS = [{"uuid": "GPU-5f0e2a10-0000-4000-8000-000000000001", "model": "Simulated 24 GB", "memory_mib": 24576, "simulated": True}]


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of 64 CPUs and 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return files(tmp_path, proc__meminfo=f"MemFree: 1 kB\nMemTotal:  {256 * 1024**2} kB\n")


def write(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_cgroup_v2(host: Path) -> None:
    write(host, cpu_dot_max="250000 100000\n", memory_dot_max=f"{8 * GIB}\n")
    found = lab.look({}, host)
    assert (found.cpus, found.memory) == (2.5, 8 * GIB)


def test_limits_of_cgroup_v1(host: Path) -> None:
    write(host, cpu__cpu_dot_cfs_quota_us="200000\n", cpu__cpu_dot_cfs_period_us="100000\n")
    write(host, memory__memory_dot_limit_in_bytes=f"{4 * GIB}\n")
    found = lab.look({}, host)
    assert (found.cpus, found.memory) == (2.0, 4 * GIB)


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"cpu_dot_max": "max 100000\n", "memory_dot_max": "max\n"},
        {"cpu__cpu_dot_cfs_quota_us": "-1\n", "cpu__cpu_dot_cfs_period_us": "100000\n",
         "memory__memory_dot_limit_in_bytes": "9223372036854771712\n"},
        {"cpu_dot_max": "nonsense", "memory_dot_max": "nonsense"},
    ],
    ids=["nothing", "v2", "v1", "nonsense"],
)  # fmt: skip
def test_without_limits_the_host_is_the_limit(host: Path, contents: dict[str, str]) -> None:
    found = lab.look({}, write(host, **contents))
    assert (found.cpus, found.memory) == (64.0, 256 * GIB)


def test_what_the_lab_was_told_is_shown_and_simulated_is_said() -> None:
    env = {"GPULAB_PROFILE": "gpu-1", "GPULAB_LEASE": "7", "GPULAB_GPUS": json.dumps(GPUS)}
    found = lab.look(env)
    assert (found.profile, found.lease, found.gpus[0].uuid) == ("gpu-1", "7", GPUS[0]["uuid"])
    assert "gpu-1" in str(found)
    assert "Simulated 24 GB, 24 GiB" in str(found)
    assert "computing happens on the CPU" in str(found)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "7", '[{"uuid": 1}]', '["GPU"]'])
def test_no_or_unreadable_gpus_are_none(text: str) -> None:
    found = lab.look({"GPULAB_GPUS": text})
    assert found.gpus == ()
    assert "GPUs          none" in str(found)


def test_pytorch_uses_the_cpus_given_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(lab, "look", lambda: lab.Lab("", "", 1.5, 0, 0, ()))
        assert lab.device() in ("cpu", "cuda")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_folders_and_user_come_from_the_environment() -> None:
    assert lab.data_folder({}) == Path("/workspace/data")
    assert lab.models_folder({"GPULAB_MODELS": "/elsewhere"}) == Path("/elsewhere")
    assert lab.user({"JUPYTERHUB_USER": "ana"}) == "ana"
    assert lab.user({})


def test_shared_memory_is_measured() -> None:
    assert lab.look({}).shm > 0


def test_what_can_be_made_again_is_kept_in_the_home() -> None:
    assert lab.cache_folder({"HOME": "/home/engineer"}) == Path("/home/engineer/.cache/defectlab")
    assert lab.cache_folder({"HOME": "/home/engineer", "XDG_CACHE_HOME": "/fast"}) == Path("/fast/defectlab")


def test_the_hubs_pages_are_below_its_base() -> None:
    assert lab.hub_path("gpus", {}) == "/hub/gpus"
    assert lab.hub_path("home", {"JUPYTERHUB_BASE_URL": "/lab/"}) == "/lab/hub/home"

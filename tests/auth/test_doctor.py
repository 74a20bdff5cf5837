"""The doctor: findings as a table over facts, and the looking on real files, folders and ports."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from spawner import cli, labfile
from spawner.commands import facts as gathering
from spawner.doctor import GIB, Facts, Finding, Folder, Level, Port, examine, exit_code, parts
from spawner.model import EngineFacts, Gpu, HostCapacity, LabConfig
from tests.auth.conftest import AuthHub
from tests.support.hub import REPO, free_ports

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
UUID = "GPU-00000000-0000-4000-8000-000000000001"
SIMULATED = Gpu(UUID, "node", 0, "Simulated 24 GB", 24 * 1024, simulated=True)
REAL = Gpu(UUID, "node", 0, "L4", 24 * 1024)
ENGINE = EngineFacts("26.1.5", HostCapacity(cpus=64, memory=256 * GIB), cdi=False)
CDI = replace(ENGINE, cdi=True)


@pytest.fixture(scope="module")
def config() -> LabConfig:
    return labfile.load(REPO / "lab.yaml")


@pytest.fixture
def healthy(config: LabConfig) -> Facts:
    """A host where nothing is wrong."""
    return Facts(
        NOW,
        config=config,
        engine=ENGINE,
        components={"runc": "1.3.3"},
        skew=0.1,
        images=dict.fromkeys(config.images, True),
        gpus=(SIMULATED, replace(SIMULATED, uuid=UUID[:-1] + "2", index=1)),
        folders=(Folder("datasets", "/nas/d", free=900 * GIB), Folder("models", "/nas/m", free=900 * GIB)),
        disks={"Docker": 100 * GIB},
        hub_ours=True,
        packages=PACKAGES,
        secrets_mode=0o700,
    )


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.level is not Level.OK]


def test_a_healthy_host_is_fine(healthy: Facts) -> None:
    assert bad(healthy) == []
    assert exit_code(examine(healthy)) == 0


PACKAGES = {"jupyterhub": "6.1.1", "dockerspawner": "14.0.0", "oauthenticator": "17.4.0"}
MENDED = frozenset({"CVE-2024-21626", "CVE-2025-31133"})
OTHER_GPU = UUID[:-1] + "9"
DEBIAN_RUNC = {"runc": "1.1.5+ds1"}
REAL_GPUS: dict[str, Any] = {"gpus": (REAL,), "toolkit": "1.17.8"}


@pytest.mark.parametrize(
    ("change", "finding", "code"),
    [
        pytest.param({"config": None, "config_error": "lab.yaml:3: no."}, "config", 2, id="lab.yaml is wrong"),
        pytest.param({"packages": {}}, "jupyterhub", 2, id="JupyterHub is missing"),
        pytest.param({"packages": {**PACKAGES, "jupyterhub": "5.5.0"}}, "jupyterhub", 2, id="JupyterHub is old"),
        pytest.param({"packages": {**PACKAGES, "dockerspawner": "12.1"}}, "dockerspawner", 2, id="DockerSpawner is old"),
        pytest.param({"engine": None, "engine_error": "The Docker engine does not answer."}, "engine", 2, id="no engine"),
        pytest.param({"engine": replace(ENGINE, version="19.03.15")}, "engine", 2, id="an old engine"),
        pytest.param({"engine": replace(ENGINE, version="")}, "engine", 2, id="an engine without a version"),
        pytest.param({"engine": replace(ENGINE, default_runtime="nvidia")}, "runtime", 1, id="nvidia is the default runtime"),
        pytest.param({"limits_off": ("memory",)}, "limits", 1, id="memory cannot be limited"),
        pytest.param({"components": {"runc": "1.1.11"}}, "runc", 2, id="runc lets out"),
        pytest.param({"components": {"runc": "1.1.15"}}, "runc", 1, id="runc lacks the later fixes"),
        pytest.param({"components": {"runc": "1.2.7"}}, "runc", 1, id="runc 1.2 without them"),
        pytest.param({"components": DEBIAN_RUNC, "mended": MENDED - {"CVE-2025-31133"}}, "runc", 1, id="runc mended in part"),
        pytest.param({"images": {"gpulab/pytorch:latest": False}}, "image", 2, id="no image"),
        pytest.param({"images": {"gpulab/predictive:latest": False}}, "image", 2, id="no image of a profile"),
        pytest.param({"gpus": (), "gpus_error": "The driver failed."}, "gpus", 2, id="a broken driver"),
        pytest.param({"gpus": ()}, "gpus", 1, id="no GPUs at all"),
        pytest.param({**REAL_GPUS, "engine": CDI}, "cdi", 2, id="CDI specs name no GPU"),
        pytest.param({**REAL_GPUS, "engine": CDI, "cdi_uuids": frozenset({OTHER_GPU})}, "cdi", 2, id="CDI specs name other GPUs"),
        pytest.param(REAL_GPUS, "cdi", 2, id="neither CDI nor hook"),
        pytest.param({**REAL_GPUS, "hook": True, "toolkit": "1.17.7"}, "toolkit", 2, id="an old toolkit"),
        pytest.param({**REAL_GPUS, "hook": True, "toolkit": ""}, "toolkit", 2, id="no toolkit"),
        pytest.param({"folders": (Folder("datasets", "/d", "missing"),)}, "mounts.datasets", 2, id="no data folder"),
        pytest.param({"folders": (Folder("datasets", "/d", "no answer"),)}, "mounts.datasets", 2, id="a dead NAS"),
        pytest.param({"folders": (Folder("models", "/m", writable=False),)}, "mounts.models", 1, id="models cannot be written"),
        pytest.param({"folders": (Folder("models", "/m", free=GIB),)}, "mounts.models", 1, id="a NAS that is nearly full"),
        pytest.param({"disks": {"Docker": 100}}, "disk", 2, id="a full disk"),
        pytest.param({"disks": {"Docker": 4 * GIB}}, "disk", 1, id="a disk that is nearly full"),
        pytest.param({"hub_ours": False}, "hub", 1, id="the hub does not run"),
        pytest.param({"hub_ours": False, "ports": (Port("The hub", "::", 8000, "in use"),)}, "ports", 2, id="a port is taken"),
        pytest.param({"secrets_mode": 0o755}, "secrets", 2, id="open secrets folder"),
        pytest.param({"open_secrets": ("cli_token",)}, "secrets", 1, id="an open secret"),
        pytest.param({"now": datetime(1970, 1, 2, tzinfo=timezone.utc)}, "clock", 2, id="a clock at its beginning"),
        pytest.param({"skew": -3600.0}, "clock", 1, id="two clocks that disagree"),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_says_what_to_do(healthy: Facts, change: dict[str, Any], finding: str, code: int) -> None:
    findings = examine(replace(healthy, **change))
    assert exit_code(findings) == code
    found = [x for x in findings if x.id == finding and x.level is not Level.OK]
    assert found, findings
    assert all(x.sentence and x.what_to_do for x in findings if x.level is not Level.OK)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"components": DEBIAN_RUNC, "mended": MENDED}, id="runc mended by the distribution"),
        pytest.param({"components": {"runc": "1.2.9"}}, id="runc 1.2 with the fixes"),
        pytest.param({"components": {"runc": "2.0.0"}}, id="a later runc"),
        pytest.param({"components": {}}, id="an engine that does not tell its parts"),
        pytest.param({"engine": replace(ENGINE, version="20.10.24+dfsg1")}, id="Debian 12's engine"),
        pytest.param({**REAL_GPUS, "engine": CDI, "cdi_uuids": frozenset({UUID})}, id="GPUs through CDI"),
        pytest.param({**REAL_GPUS, "hook": True, "toolkit": "1.18.0-1"}, id="GPUs through the hook"),
        pytest.param({"secrets_mode": None}, id="no secrets yet"),
        pytest.param({"skew": None}, id="an engine that does not tell the time"),
    ],
)  # fmt: skip
def test_what_is_right_is_not_complained_about(healthy: Facts, change: dict[str, Any]) -> None:
    assert bad(replace(healthy, **change)) == []


def test_simulated_gpus_are_called_so(healthy: Facts) -> None:
    assert any("2 simulated GPUs" in finding.sentence for finding in examine(healthy))


def test_a_profile_this_host_cannot_give_is_mentioned_and_no_fault(healthy: Facts) -> None:
    small = replace(healthy, engine=replace(ENGINE, capacity=HostCapacity(cpus=2, memory=16 * GIB)))
    assert any(x.id == "profiles" and "'Reference'" in x.sentence for x in examine(small))
    assert exit_code(examine(small)) == 0


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1.1.5+ds1", (1, 1, 5)),
        ("v1.2", (1, 2)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("", ()),
        ("x", ()),
        ("1.4.0-rc.3", (1, 4, 0)),
    ],
)
def test_parts_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert parts(version) == numbers


# --- the looking ----


def test_a_folder_that_does_not_answer_costs_its_time_limit_and_no_more(tmp_path: Path) -> None:
    dead = tmp_path / "stat"
    dead.write_text("#!/bin/sh\nexec sleep 60\n")
    dead.chmod(0o755)
    started = time.monotonic()
    found = gathering.look("models", tmp_path, 0.3, None, stat=str(dead))
    assert found.problem == "no answer"
    assert time.monotonic() - started < 30, "half of what the dead folder would have taken"


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "here").mkdir()
    assert gathering.look("x", tmp_path / "gone", 5, None).problem == "missing"
    assert gathering.look("x", tmp_path / "file", 5, None).problem == "missing"
    found = gathering.look("x", tmp_path / "here", 5, (os.getuid(), os.getgid()))
    assert (found.problem, found.writable) == ("", True)
    assert found.free is not None
    assert found.free > 0


def test_a_folder_with_a_line_end_in_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a\n b"
    odd.mkdir()
    assert gathering.look("x", odd, 5, None).problem == ""


@pytest.mark.parametrize(
    ("owner", "group", "mode", "can"),
    [
        pytest.param(1000, 0, 0o755, True, id="its owner"),
        pytest.param(1000, 0, 0o055, False, id="its owner, shut out"),
        pytest.param(0, 1000, 0o775, True, id="its group"),
        pytest.param(0, 1000, 0o755, False, id="its group, reading only"),
        pytest.param(0, 0, 0o777, True, id="everybody"),
        pytest.param(0, 0, 0o755, False, id="root's"),
        pytest.param(0, 0, 0o772, False, id="everybody may write but not enter"),
        pytest.param(0, 0, 0o1777, True, id="sticky"),
    ],
)
def test_may_write_reads_the_mode_as_the_kernel_does(owner: int, group: int, mode: int, can: bool) -> None:
    assert gathering.may_write(owner, group, mode, 1000, 1000) is can


CDI_YAML = f"""
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {{}}
- name: {UUID}
  containerEdits: {{}}
"""


@pytest.mark.parametrize(
    ("name", "text", "uuids"),
    [
        pytest.param("nvidia.yaml", CDI_YAML, {UUID}, id="YAML"),
        pytest.param("nvidia.json", json.dumps({"devices": [{"name": UUID}, {"name": "all"}]}), {UUID}, id="JSON"),
        pytest.param("nvidia.yaml", CDI_YAML.replace(UUID, "1"), set(), id="by index only"),
        pytest.param("nvidia.yaml.bak", CDI_YAML, set(), id="no spec"),
        pytest.param("nvidia.yaml", "\x00\xff", set(), id="damaged"),
    ],
)
def test_cdi_specs_are_read_for_uuids(tmp_path: Path, name: str, text: str, uuids: set[str]) -> None:
    (tmp_path / name).write_text(text)
    assert gathering.cdi_uuids([tmp_path, tmp_path / "gone"]) == uuids


def test_mended_counts_only_in_the_changelog_of_the_package_that_runs(tmp_path: Path) -> None:
    changelog = tmp_path / "changelog.Debian.gz"
    with gzip.open(changelog, "wt") as file:
        file.write("runc (1.1.5+ds1-1+deb12u1) bookworm-security; urgency=high\n\n  * CVE-2024-21626: breakouts\n")
    assert gathering.mended(changelog, "1.1.5+ds1-1+deb12u1") == {"CVE-2024-21626"}
    assert gathering.mended(changelog, "1.1.5+ds1-1") == frozenset()
    assert gathering.mended(changelog, "") == frozenset()
    assert gathering.mended(tmp_path / "gone", "1") == frozenset()
    changelog.write_bytes(b"not gzip")
    assert gathering.mended(changelog, "1") == frozenset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2026-06-01T00:00:10.425449192Z", 10.425449, id="nanoseconds"),
        pytest.param("2026-06-01T02:00:00+02:00", 0.0, id="another zone"),
        pytest.param("", None, id="nothing"),
        pytest.param("yesterday", None, id="nonsense"),
        pytest.param("2026-06-01T00:00:00", None, id="no zone"),
    ],
)
def test_skew(text: str, seconds: float | None) -> None:
    assert gathering.skew(text, NOW) == (pytest.approx(seconds) if seconds is not None else None)


# --- the whole command ----


@pytest.fixture
def lab_file(tmp_path: Path) -> Path:
    lab = yaml.safe_load((REPO / "lab.yaml").read_text())
    lab["hub"]["port"] = free_ports()
    lab["gpus"]["source"] = "simulated"
    for kind in ("datasets", "models"):
        (tmp_path / kind).mkdir()
        lab["mounts"][kind]["path"] = str(tmp_path / kind)
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(lab))
    return file


NOWHERE = "tcp://127.0.0.1:1"


def doctor(lab_file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = cli.main(["--config", str(lab_file), "doctor", "--json"], {})
    told = json.loads(capsys.readouterr().out)
    assert told["exit"] == code
    told["by_id"] = {finding["id"]: finding for finding in told["findings"]}
    return dict(told)


def test_without_an_engine_the_rest_is_still_examined(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    told = doctor(lab_file, capsys)
    assert told["exit"] == 2
    assert told["by_id"]["engine"]["level"] == "broken"
    assert told["by_id"]["mounts.datasets"]["level"] == "ok"
    assert "make setup" in told["by_id"]["engine"]["what_to_do"]


def test_a_port_that_a_stranger_holds_is_found(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    port = yaml.safe_load(lab_file.read_text())["hub"]["port"]
    assert doctor(lab_file, capsys)["by_id"]["hub"]["level"] == "warn"
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        told = doctor(lab_file, capsys)
    assert told["by_id"]["ports"]["level"] == "broken"
    assert f"127.0.0.1:{port}" in told["by_id"]["ports"]["sentence"]


def test_the_running_hub_is_known_as_ours(
    hub: AuthHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    assert doctor(hub.folder / "lab.yaml", capsys)["by_id"]["hub"]["level"] == "ok"


def test_open_secrets_are_found(lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    secrets = lab_file.parent / ".lab" / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    (secrets / "cli_token").write_text("x")
    (secrets / "cli_token").chmod(0o644)
    assert doctor(lab_file, capsys)["by_id"]["secrets"]["level"] == "warn"
    secrets.chmod(0o755)
    assert doctor(lab_file, capsys)["by_id"]["secrets"]["level"] == "broken"


def test_text_has_a_line_for_each_finding_and_one_for_what_to_do(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    code = cli.main(["--config", str(lab_file), "doctor"], {})
    out = capsys.readouterr().out
    assert code == 2
    assert "broken  The Docker engine does not answer" in out
    assert "        -> Start it: make setup" in out
    assert out.endswith("Something is broken: see above.\n")


def test_a_wrong_lab_yaml_does_not_hide_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = doctor(tmp_path / "gone.yaml", capsys)
    assert told["exit"] == 2
    assert told["by_id"]["config"]["level"] == "broken"
    assert told["by_id"]["jupyterhub"]["level"] == "ok"
    assert told["findings"][0]["what_to_do"]


def test_nothing_is_made(lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    before = sorted(lab_file.parent.rglob("*"))
    doctor(lab_file, capsys)
    assert sorted(lab_file.parent.rglob("*")) == before


def test_an_answer_takes_seconds_also_when_the_engine_stalls(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gathering, "ENGINE_SECONDS", 1)
    with socket.socket() as stalled:
        stalled.bind(("127.0.0.1", 0))
        stalled.listen(5)
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{stalled.getsockname()[1]}")
        started = time.monotonic()
        told = doctor(lab_file, capsys)
    assert told["by_id"]["engine"]["level"] == "broken"
    assert time.monotonic() - started < 45, "the engine library's own limit is 60 s for each of several questions"


def test_the_clock_is_examined_against_the_present(healthy: Facts) -> None:
    assert bad(replace(healthy, now=datetime.now(timezone.utc) + timedelta(days=1))) == []

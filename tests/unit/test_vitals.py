"""What a lab uses is read from the kernel, whichever cgroups it has; the engine's own numbers prove work but no idleness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spawner import vitals
from spawner.engine import Engine
from spawner.vitals import Inside, Vitals, VitalsReader

CONTAINER = "c" * 64
MOVED = [{"op": "Read", "value": 3}, {"op": "write", "value": 4}, {"op": "Sync", "value": 9}]
STATS = {
    "cpu_stats": {"cpu_usage": {"total_usage": 7_000_000_000}},
    "networks": {"eth0": {"rx_bytes": 10, "tx_bytes": 20}},
    "blkio_stats": {"io_service_bytes_recursive": MOVED},
}


class Client:
    """An engine that knows one container."""

    def __init__(self) -> None:
        self.inspected = 0
        self.stats_asked = 0

    def inspect_container(self, container: str) -> dict[str, Any]:
        self.inspected += 1
        networks = {"labs": {"IPAddress": "172.18.0.2"}}
        env = ["A=b=c", "JUPYTERHUB_API_TOKEN=own"]
        return {"State": {"Pid": 42}, "Config": {"Env": env}, "NetworkSettings": {"Networks": networks}}

    def stats(self, container: str, stream: bool, one_shot: bool) -> dict[str, Any]:
        assert (stream, one_shot) == (False, True)
        self.stats_asked += 1
        return STATS


def reader(client: Client) -> VitalsReader:
    engine = Engine()
    engine._clients["answer"] = client  # type: ignore[assignment]
    return VitalsReader(engine, "labs")


@pytest.fixture
def host(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vitals, "PROC", tmp_path / "proc")
    monkeypatch.setattr(vitals, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process(host: Path, pid: int, cgroup: str, io: str | None) -> None:
    write(host / "proc" / str(pid) / "cgroup", cgroup)
    if io is not None:
        write(host / "proc" / str(pid) / "io", io)


def network(host: Path) -> None:
    rows = "    lo: 900 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n"
    write(host / "proc" / "42" / "net" / "dev", f"Inter-|\n face |\n{rows}")


def test_cgroups_of_version_2(host: Path):
    group = f"0::/system.slice/docker-{CONTAINER}.scope\n"
    process(host, 42, group, "rchar: 10\nwchar: 5\nread_bytes: 9\n")
    process(host, 43, group, "rchar: 1000\nwchar: 2000\n")
    folder = host / "cgroup" / "system.slice" / f"docker-{CONTAINER}.scope"
    write(folder / "cgroup.procs", "42\n43\n")
    write(folder / "cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    network(host)
    client = Client()
    found = reader(client)
    assert found.read(CONTAINER) == Vitals(2.5, 15 + 3000 + 300, complete=True)
    assert found.read(CONTAINER).complete
    assert (client.inspected, client.stats_asked) == (1, 0), "the engine is asked once per lab"


@pytest.mark.parametrize("name", ["cpuacct", "cpu,cpuacct"])
def test_cgroups_of_version_1(host: Path, name: str):
    process(host, 42, f"9:name=systemd:/docker/{CONTAINER}\n4:{name}:/docker/{CONTAINER}\n", "rchar: 1\nwchar: 2\n")
    write(host / "cgroup" / name / "docker" / CONTAINER / "cpuacct.usage", "1500000000\n")
    write(host / "cgroup" / name / "docker" / CONTAINER / "cgroup.procs", "42\n")
    network(host)
    assert reader(Client()).read(CONTAINER) == Vitals(1.5, 303, complete=True)


@pytest.mark.parametrize("what", ["another host", "no root"])
def test_the_engine_is_asked_where_the_kernel_does_not_tell(host: Path, what: str):
    mine = CONTAINER if what == "no root" else "d" * 64
    process(host, 42, f"0::/docker/{mine}\n", None)
    write(host / "cgroup" / "docker" / mine / "cgroup.procs", "42\n")
    write(host / "cgroup" / "docker" / mine / "cpu.stat", "usage_usec 1\n")
    assert reader(Client()).read(CONTAINER) == Vitals(7, 37, complete=False)


def test_an_engine_that_says_nonsense_says_nothing(host: Path, monkeypatch):
    client = Client()
    monkeypatch.setattr(client, "stats", lambda *args, **more: {"cpu_stats": None})
    assert reader(client).read(CONTAINER) == Vitals()
    monkeypatch.setattr(client, "inspect_container", lambda container: {"State": None})
    assert reader(client).read(CONTAINER) == Vitals()


def test_a_way_in_is_forgotten_with_its_container(host: Path):
    client = Client()
    found = reader(client)
    assert found.inside(CONTAINER) == Inside(42, "172.18.0.2", "own")
    found.forget_all_but({CONTAINER})
    found.inside(CONTAINER)
    found.forget_all_but(set())
    found.inside(CONTAINER)
    assert client.inspected == 2


def test_a_process_is_known_by_its_cgroup(host: Path):
    process(host, 7, f"0::/system.slice/docker-{CONTAINER}.scope\n", None)
    process(host, 8, "0::/user.slice\n", None)
    assert [vitals.container_of(pid) for pid in (7, 8, 9)] == [CONTAINER, "", ""]


@pytest.mark.parametrize(
    ("code", "said", "lost"),
    [
        (0, "", ""),
        (9, "nvidia0 cannot be\nopened \ufffd", "nvidia0 cannot be opened \ufffd"),
        (9, "", "its devices are gone"),
        (9, "x" * 3000, "x" * 100),
        (1, "sh: nonsense", None),
        (127, "no sh", None),
        (None, "", None),
    ],
)
def test_a_look_that_fails_does_not_say_that_the_gpus_are_lost(monkeypatch, code, said, lost):
    found = reader(Client())
    monkeypatch.setattr(found._asker, "ask", lambda container, command: (code, said))
    assert found.lost(CONTAINER) == lost

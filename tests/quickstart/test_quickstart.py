"""A stranger's way: a fresh clone, `make up`, a second `make up`, `make down`. All of it through make, as they would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import requests
import yaml

from tests.support.hub import free_ports
from tests.support.ownership import give_up_name, take_name

REPO = Path(__file__).resolve().parents[2]
COLD_SECONDS = 900
# A running lab is only looked at: hashes compared, an engine asked, a few processes started.
WARM_SECONDS = 20


@dataclass(frozen=True)
class Checkout:
    """A fresh clone with a name and ports of its own."""

    folder: Path
    name: str
    port: int

    def make(self, *arguments: str, seconds: float = COLD_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run make as a person would and keep everything it says."""
        own = ("GPULAB_", "PYTEST_", "MAKE", "MFLAGS")
        env = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )

    @property
    def hub_process(self) -> int | None:
        record = self.folder / ".lab" / "state" / "hub.pid"
        return int(record.read_text().split()[0]) if record.exists() else None


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.from_env()
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("stranger") / "gpu-lab"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(folder)], check=True)
    fresh = Checkout(folder, take_name(), free_ports())
    lab_file = folder / "lab.yaml"
    content = yaml.safe_load(lab_file.read_text())
    content["name"] = content["network"]["name"] = fresh.name
    lab_file.write_text(yaml.safe_dump(content, sort_keys=False))
    yield fresh
    fresh.make("down")
    if pid := fresh.hub_process:
        os.kill(pid, signal.SIGKILL)
    for volume in client.volumes.list():
        if volume.name.startswith(f"{fresh.name}-home-"):
            volume.remove()
    for network in client.networks.list(names=[fresh.name]):
        network.remove()
    give_up_name(fresh.name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def first_up(checkout: Checkout) -> str:
    """What the first `make up` of the clone said; the port comes from the command line, as documented."""
    done = checkout.make("up", f"PORT={checkout.port}")
    assert done.returncode == 0, done.stdout
    return done.stdout


def address(checkout: Checkout) -> str:
    return f"http://127.0.0.1:{checkout.port}"


def printed_token(output: str) -> str:
    found = re.search(r"login token\s+(\S+)", output)
    assert found, output
    return found.group(1)


def test_bare_make_lists_the_targets(checkout: Checkout) -> None:
    listing = checkout.make().stdout
    for target in ("up", "down", "status", "logs", "clean", "test"):
        assert re.search(rf"^\s+make {target}\s+\S", listing, re.MULTILINE), listing


def test_port_in_use_is_told_in_one_sentence_before_anything_else(checkout: Checkout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        began = time.monotonic()
        refused = checkout.make("up", f"PORT={port}")
    assert refused.returncode != 0
    sentences = [line for line in refused.stdout.splitlines() if line and not line.startswith("make: ")]
    assert len(sentences) == 1, refused.stdout
    assert f"Port {port} on 127.0.0.1 is in use" in sentences[0]
    assert "make up PORT=" in sentences[0]
    assert time.monotonic() - began < 30
    assert not (checkout.folder / ".venv").exists()


def test_status_of_a_fresh_clone_says_what_starts_it(checkout: Checkout) -> None:
    assert "make up" in checkout.make("status").stdout


def test_up_prints_the_address_and_a_token_and_the_hub_answers(checkout: Checkout, first_up: str) -> None:
    assert address(checkout) in first_up
    assert requests.get(f"{address(checkout)}/hub/api", timeout=10).json()["version"] == "6.1.1"
    assert printed_token(first_up)


def test_the_printed_token_logs_the_admin_in(checkout: Checkout, first_up: str) -> None:
    browser = requests.Session()
    page = browser.get(f"{address(checkout)}/hub/login", timeout=10)
    form = {"_xsrf": browser.cookies.get("_xsrf", path="/hub/"), "token": printed_token(first_up)}
    arrived = browser.post(page.url, data=form, timeout=10)
    assert arrived.ok, arrived.text
    assert "/hub/login" not in arrived.url
    # The same token is worth nothing now.
    other = requests.Session()
    page = other.get(f"{address(checkout)}/hub/login", timeout=10)
    form["_xsrf"] = other.cookies.get("_xsrf", path="/hub/")
    assert "/hub/login" in other.post(page.url, data=form, timeout=10).url


def test_every_step_says_how_long_it_took(first_up: str) -> None:
    assert len(re.findall(r"^==> ", first_up, re.MULTILINE)) == len(
        re.findall(r"^    done in \d+\.\d s$", first_up, re.MULTILINE)
    )


def test_the_default_data_set_is_in_place(checkout: Checkout, first_up: str) -> None:
    assert list((checkout.folder / ".lab" / "nas" / "datasets").glob("*/*"))


def test_secrets_are_closed_to_others_and_ignored_by_git(checkout: Checkout, first_up: str) -> None:
    secrets_folder = checkout.folder / ".lab" / "secrets"
    assert secrets_folder.stat().st_mode & 0o077 == 0
    for file in secrets_folder.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=checkout.folder, capture_output=True, text=True, check=True)
    assert changed.stdout.split() == ["M", "lab.yaml"]


def test_second_up_changes_nothing_and_takes_seconds(checkout: Checkout, first_up: str, client: docker.DockerClient) -> None:
    before = (checkout.hub_process, client.images.get("gpulab/pytorch:latest").id)
    began = time.monotonic()
    again = checkout.make("up", f"PORT={checkout.port}")
    took = time.monotonic() - began
    assert again.returncode == 0, again.stdout
    assert (checkout.hub_process, client.images.get("gpulab/pytorch:latest").id) == before
    assert "nothing was changed" in again.stdout
    assert "gpulab token admin" in again.stdout
    assert took < WARM_SECONDS, again.stdout


def test_a_running_lab_is_not_moved_to_another_port_silently(checkout: Checkout, first_up: str) -> None:
    moved = checkout.make("up", f"PORT={free_ports()}")
    assert moved.returncode != 0
    assert "make down" in moved.stdout


def test_status_names_hub_engine_image_and_gpus(checkout: Checkout, first_up: str) -> None:
    status = checkout.make("status").stdout
    assert address(checkout) in status
    for word in ("engine", "image", "labs", "GPU-"):
        assert word in status


def test_restart_replaces_the_hub_only(checkout: Checkout, first_up: str) -> None:
    before = checkout.hub_process
    done = checkout.make("restart", f"PORT={checkout.port}")
    assert done.returncode == 0, done.stdout
    assert checkout.hub_process not in (None, before)


def test_down_ends_hub_and_labs_and_leaves_homes_and_data(checkout: Checkout, first_up: str, client: docker.DockerClient) -> None:
    home = client.volumes.create(f"{checkout.name}-home-somebody")
    lab = client.containers.run(
        "gpulab/pytorch:latest",
        ["sleep", "600"],
        detach=True,
        network_mode="none",
        labels={"io.gpulab.lab": checkout.name, "io.gpulab.user": "somebody"},
        volumes={home.name: {"bind": "/home/engineer", "mode": "rw"}},
    )
    pid = checkout.hub_process
    done = checkout.make("down")
    assert done.returncode == 0, done.stdout
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(lab.id)
    with pytest.raises(requests.ConnectionError):
        requests.get(address(checkout), timeout=5)
    assert client.volumes.get(home.name)
    assert list((checkout.folder / ".lab" / "nas" / "datasets").glob("*/*"))
    # Down again is no error: there is nothing left to stop.
    assert checkout.make("down").returncode == 0

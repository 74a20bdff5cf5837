"""Where the base of the lab image comes from: a container registry, pinned by digest, else a Debian root made on this host.

On a real engine and a real registry, through the script that `make image` runs. The engine and the registry are private to the
tests and reach nothing outside; the official image is a stand-in under the official name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from scripts.apt_archive import mirror_in
from tests.support.private_engine import PrivateEngine, private_engine
from tests.support.registry import MIRRORED, Registry, registry, silent_registry
from tests.support.roots import modern_root, tiny_root

REPO = Path(__file__).resolve().parents[2]
FULL = os.environ.get("GPULAB_TEST_FULL") == "1"
NAME, TAG = "python", "3.11.15-bookworm"
PINNED = re.compile(rf'^pinned = "{NAME}:{TAG}@(sha256:[0-9a-f]{{64}})"$', re.MULTILINE)
# Makes what debootstrap would make, as far as this test looks; the real one has a test of its own in the quick start.
DEBOOTSTRAP = (
    '#!/bin/sh\nfor last; do root=$target target=$last; done\nmkdir -p "$root/etc" && echo made here > "$root/etc/made-here"\n'
)

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    with private_engine(modern_root(), MIRRORED, ()) as engine:
        yield engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def full_registry(private: PrivateEngine, store: Path) -> Iterator[Registry]:
    with registry(private, store) as running:
        yield running


@pytest.fixture
def client(private: PrivateEngine) -> Iterator[docker.DockerClient]:
    """The private engine, which forgets after the test what the test brought in."""
    connection = docker.DockerClient(private.base_url, timeout=600)
    yield connection
    for image in connection.images.list():
        connection.images.remove(image.id, force=True)
    private.images.clear()
    connection.close()


@pytest.fixture
def official(private: PrivateEngine, full_registry: Registry, client: docker.DockerClient) -> str:
    """The digest of the stand-in for the official image, which is in the registry and nowhere else."""
    image = private.load(tiny_root(), "official", {"MADE": "by-the-registry"})
    digest = full_registry.push(image, NAME, TAG)
    client.images.remove(image)
    private.images.clear()
    return digest


@pytest.fixture
def make(tmp_path: Path, private: PrivateEngine) -> Make:
    """Run images.py of a checkout whose images.toml pins `digest` (else the one it ships with)."""
    for folder in ("scripts", "images"):
        shutil.copytree(REPO / folder, tmp_path / folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "debootstrap").write_text(DEBOOTSTRAP)
    (programs / "debootstrap").chmod(0o755)

    def make(command: str = "base", digest: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "images" / "images.toml"
        if digest:
            file.write_text(PINNED.sub(f'pinned = "{NAME}:{TAG}@{digest}"', file.read_text()))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GPULAB_")}
        own = {
            "DOCKER_HOST": private.base_url,
            "GPULAB_STATE": str(tmp_path / ".lab"),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        return subprocess.run(
            [sys.executable, "scripts/images.py", command],
            cwd=tmp_path, env={**inherited, **own, **env}, capture_output=True, text=True, timeout=1800, check=False,
        )  # fmt: skip

    return make


def made_here(client: docker.DockerClient, tag: str) -> bool:
    """Whether a base was made on this host; it is imported, so it has no settings of a registry's image."""
    return not client.images.get(tag).attrs["Config"].get("Env")


def base_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_official_image_is_pinned_by_digest() -> None:
    assert PINNED.search((REPO / "images" / "images.toml").read_text())


def test_base_comes_from_the_registry_where_it_has_the_pinned_image(
    make: Make, client: docker.DockerClient, official: str
) -> None:
    done = make(digest=official)
    image = client.images.get(base_of(done))
    assert "MADE=by-the-registry" in image.attrs["Config"]["Env"]
    assert f"pulling {NAME}:{TAG}" in done.stdout
    # It goes with `make clean`, which takes away what carries a name of the lab's.
    assert [tag.partition(":")[0] for tag in image.tags] == ["gpulab/base"]
    assert image.attrs["RepoDigests"] == []


def test_base_is_fetched_once(make: Make, client: docker.DockerClient, official: str) -> None:
    first = base_of(make(digest=official))
    again = make(digest=official)
    assert base_of(again) == first
    assert "pulling" not in again.stdout


def test_an_official_image_that_was_there_before_keeps_its_name(make: Make, client: docker.DockerClient, official: str) -> None:
    client.images.pull(f"{NAME}@{official}")
    base_of(make(digest=official))
    assert client.images.get(f"{NAME}@{official}")


def test_base_is_made_here_where_the_registry_lacks_the_pinned_digest(
    make: Make, client: docker.DockerClient, official: str
) -> None:
    # The registry has the name and the tag, and another image under them: only the digest counts.
    done = make()
    assert made_here(client, base_of(done))
    assert f"the engine's registry has no {NAME}:{TAG} with the pinned digest" in done.stdout


def test_base_is_made_here_where_no_registry_answers(make: Make, client: docker.DockerClient) -> None:
    done = make()
    assert made_here(client, base_of(done))
    assert "no container registry answers the Docker engine)" in done.stdout


def test_a_registry_that_stays_silent_is_waited_for_but_not_long(
    make: Make, client: docker.DockerClient, private: PrivateEngine
) -> None:
    with silent_registry(private):
        began = time.monotonic()
        done = make()
        assert time.monotonic() - began < 30
    assert made_here(client, base_of(done))
    assert "no container registry answers the Docker engine within 10 s" in done.stdout


def test_a_registry_that_was_asked_for_by_name_and_lacks_the_image_is_an_error(
    make: Make, client: docker.DockerClient, official: str
) -> None:
    done = make(GPULAB_BASE="registry")
    assert done.returncode == 1
    assert "GPULAB_BASE=debootstrap" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_that_was_asked_for_from_here_asks_no_registry(make: Make, client: docker.DockerClient, official: str) -> None:
    assert made_here(client, base_of(make(digest=official, GPULAB_BASE="debootstrap")))


def test_an_unknown_origin_is_refused_with_those_that_there_are(make: Make, client: docker.DockerClient) -> None:
    done = make(GPULAB_BASE="hub")
    assert done.returncode == 1
    assert done.stderr.strip() == "GPULAB_BASE is 'hub', but there are registry and debootstrap: set one of these."


def test_a_host_with_neither_registry_nor_debian_mirror_is_told_what_to_do(
    make: Make, client: docker.DockerClient, tmp_path: Path
) -> None:
    apt = tmp_path / "bin" / "apt-get"
    apt.write_text("#!/bin/sh\n")
    apt.chmod(0o755)
    done = make()
    assert done.returncode == 1
    assert "No container registry answers the Docker engine, and this host's apt names no Debian mirror" in done.stderr
    assert "GPULAB_DEBIAN_MIRROR" in done.stderr
    assert base_of(make(GPULAB_DEBIAN_MIRROR="http://mirror.example/debian"))


# What apt says of its sources on hosts of several kinds: release, origin, label, address.
OWN, SECURITY = "trixie|Debian|Debian", "trixie-security|Debian|Debian-Security"
APT = {
    "debian": ([f"{SECURITY}|http://a/sec/", f"{OWN}|http://a/debian/"], "trixie", "http://a/debian/"),
    "stable": (["stable|Debian|Debian|http://a/debian/"], "trixie", "http://a/debian/"),
    "lists not fetched": (["trixie|||http://a/debian/"], "trixie", "http://a/debian/"),
    "installed from DVD": ([f"{OWN}|cdrom://[DVD]/", f"{OWN}|https://a/debian/"], "trixie", "https://a/debian/"),
    "ubuntu": (["noble|Ubuntu|Ubuntu|http://a/ubuntu/"], "", ""),
    "no source": ([], "trixie", ""),
}


@pytest.mark.parametrize(("targets", "codename", "expected"), APT.values(), ids=APT)
def test_the_mirror_is_debians_own_archive(targets: list[str], codename: str, expected: str) -> None:
    assert mirror_in("\n".join(f"Packages|main|{target}" for target in targets), codename) == expected


def test_a_mirror_that_a_cloud_image_names_in_a_file_is_found(tmp_path: Path) -> None:
    names = tmp_path / "debian.list"
    names.write_text("# chosen by the provider\nhttps://a/debian\tpriority:1\n")
    assert mirror_in(f"Packages|main|trixie|Debian|Debian|mirror+file:{names}", "trixie") == "https://a/debian"


def official_like(client: docker.DockerClient, base: str, folder: Path) -> Any:
    """A base made here, in the shape of the official image: Python in /usr/local and its variables, and none of the extras."""
    extras = "/usr/bin/tini /usr/bin/git-lfs /usr/bin/nano /usr/bin/less"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nRUN rm -f {extras} && ln -s /usr/bin/python3 /usr/local/bin/python3\n"
        f'ENV LANG=C.UTF-8 PYTHON_VERSION=3.11.15 GPG_KEY=x\nCMD ["python3"]\n'
    )
    return client.images.build(path=str(folder), network_mode="none", rm=True)[0]


if FULL:  # needs minutes

    @pytest.mark.timeout(1800)
    def test_the_lab_image_stands_on_the_registrys_image_and_answers(
        make: Make, client: docker.DockerClient, private: PrivateEngine, full_registry: Registry, tmp_path: Path
    ) -> None:
        here = docker.from_env(timeout=600)
        told = subprocess.run([sys.executable, "scripts/images.py", "base"], cwd=REPO, capture_output=True, text=True, check=True)
        base = told.stdout.splitlines()[-1]
        client.images.load(here.images.get(base).save(named=base))
        here.close()
        digest = full_registry.push(official_like(client, base, tmp_path / "official").id, NAME, TAG)
        for image in client.images.list():
            client.images.remove(image.id, force=True)
        shutil.copytree(REPO / "notebooks", tmp_path / "notebooks")
        done = make("ensure", digest, GPULAB_STATE=str(REPO / ".lab"), GPULAB_VARIANT="cpu")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"pulling {NAME}:{TAG}" in done.stdout
        lab = client.containers.run("gpulab/pytorch:latest", detach=True, network_mode="none", cap_drop=["ALL"])
        try:
            ask = "import torch, urllib.request as r; print(r.urlopen('http://127.0.0.1:8888/api', timeout=5).read().decode())"
            deadline = time.monotonic() + 120
            while (said := lab.exec_run(["python", "-c", ask])).exit_code:
                assert time.monotonic() < deadline, lab.logs().decode("utf-8", "replace")
                time.sleep(0.5)
            assert b"version" in said.output
        finally:
            lab.remove(force=True, v=True)

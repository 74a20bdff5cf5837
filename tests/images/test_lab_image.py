"""The lab image as a product: what an engineer finds in it, under the restrictions that a lab runs with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from spawner import evidence
from spawner.records import Remains
from tests.support.ownership import give_up_name, take_name

REPO = Path(__file__).resolve().parents[2]
IMAGE = "gpulab/pytorch:latest"
STARTERS = "/opt/gpulab/notebooks"
ANSWER_SECONDS = 60
# As the spawner runs a lab, less what needs a hub.
RESTRICTED: dict[str, Any] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "network_mode": "none"}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.from_env()
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def run(client: docker.DockerClient) -> Run:
    """Run a command in a fresh lab and return what it printed."""

    def run(*command: str, **more: Any) -> str:
        output: bytes = client.containers.run(IMAGE, list(command), remove=True, stderr=True, **{**RESTRICTED, **more})
        return output.decode()

    return run


@pytest.fixture
def home(client: docker.DockerClient) -> Iterator[str]:
    name = take_name()
    volume = client.volumes.create(f"{name}-home-somebody")
    yield volume.name
    volume.remove(force=True)
    give_up_name(name)


@pytest.fixture
def start(client: docker.DockerClient) -> Iterator[Callable[..., Any]]:
    """Start a lab that goes on running; it is gone after the test."""
    started: list[Any] = []

    def start(**more: Any) -> Any:
        started.append(client.containers.run(IMAGE, detach=True, **{**RESTRICTED, **more}))
        return started[-1]

    yield start
    for container in started:
        container.remove(force=True, v=True)


def mounted(home: str) -> dict[str, Any]:
    return {"volumes": {home: {"bind": "/home/engineer", "mode": "rw"}}}


def wait_until_it_answers(container: Any) -> None:
    """Ask the notebook server from inside, because the lab has no network here."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8888/api', timeout=2).read().decode())"
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        container.reload()
        assert container.status == "running", container.logs().decode()
        if container.exec_run(["python", "-c", ask]).exit_code == 0:
            return
        time.sleep(0.2)
    pytest.fail(f"the notebook server did not answer in {ANSWER_SECONDS} s:\n{container.logs().decode()}")


def asked_packages() -> list[str]:
    lines = (REPO / "images" / "pytorch" / "requirements.in").read_text().splitlines()
    return [match.group(0) for line in lines if (match := re.match(r"[A-Za-z0-9_-]+", line))]


def test_revision_label_names_what_this_checkout_would_build(client: docker.DockerClient) -> None:
    told = subprocess.run([sys.executable, "scripts/images.py", "revision"], cwd=REPO, capture_output=True, text=True, check=True)
    expected = json.loads(told.stdout)
    labels = client.images.get(IMAGE).labels
    assert labels["io.gpulab.revision"] == expected["revision"]
    assert labels["io.gpulab.variant"] == expected["variant"]


def test_engineer_has_a_stable_user_and_no_way_to_root(run: Run) -> None:
    assert run("id", "-u", "-n").strip() == "engineer"
    assert run("bash", "-c", "id -u; id -g; pwd").split() == ["1000", "1000", "/home/engineer"]
    assert run("bash", "-c", "command -v sudo || echo none").strip() == "none"


def test_a_container_that_was_told_of_no_gpu_sees_none(run: Run) -> None:
    assert run("printenv", "NVIDIA_VISIBLE_DEVICES").strip() == "void"
    assert run("python", "-c", "import torch; print(torch.cuda.is_available())").strip() == "False"


def test_every_package_that_was_asked_for_imports_without_a_warning(run: Run) -> None:
    renamed = {"scikit-image": "skimage", "scikit-learn": "sklearn", "pillow": "PIL"}
    modules = [renamed.get(package, package.replace("-", "_")) for package in [*asked_packages(), "torch"]]
    # One process each: a module must not work only because another was imported before it.
    script = 'for module in "$@"; do python -W error -c "import $module" || echo "$module failed"; done'
    assert run("bash", "-c", script, "bash", *modules) == ""


def test_torch_trains_one_step(run: Run) -> None:
    code = """
import torch
torch.manual_seed(0)
model, images = torch.nn.Conv2d(1, 4, 3), torch.rand(2, 1, 16, 16)
model(images).mean().backward()
print(model.weight.grad.abs().sum().item() > 0)
"""
    assert run("python", "-c", code).strip() == "True"


def test_workspace_folders_are_there_and_writable(run: Run) -> None:
    assert run("bash", "-c", "touch /workspace/data/x /workspace/models/x && echo ok").strip() == "ok"


def test_nothing_of_the_build_stays_behind(run: Run) -> None:
    assert run("bash", "-c", "ls -A /tmp; find /root -name '*.whl'", user="0").strip() == ""


def test_packages_of_the_lab_are_compiled_so_that_a_start_need_not(run: Run) -> None:
    assert run("bash", "-c", "ls /opt/lab/lib/python3*/site-packages/jupyterlab/__pycache__/labapp.*.pyc").strip()


def test_lab_without_a_hub_answers_and_copies_the_starters(home: str, start: Callable[..., Any]) -> None:
    lab = start(**mounted(home))
    wait_until_it_answers(lab)
    offered = lab.exec_run(["bash", "-c", f"cd {STARTERS} && find . -name '*.ipynb' | sort"]).output
    copied = lab.exec_run(["bash", "-c", "cd ~/notebooks && find . -name '*.ipynb' | sort"]).output
    assert copied == offered


def test_a_changed_starter_is_kept_and_a_missing_one_comes_back(run: Run, home: str, tmp_path: Path) -> None:
    starters = tmp_path / "starters"
    for folder in ("more", "library", "scripts"):
        (starters / folder).mkdir(parents=True)
    for name in ("01_first.ipynb", "more/02_second.ipynb", "README.md", "01_first.py", "library/part.py", "scripts/line.py"):
        (starters / name).write_text("new")
    volumes = {
        home: {"bind": "/home/engineer", "mode": "rw"},
        str(starters): {"bind": STARTERS, "mode": "ro"},
    }
    begin = "JUPYTERHUB_API_TOKEN=x gpulab-start --version >/dev/null 2>&1"
    run("bash", "-c", f"{begin}; echo mine > ~/notebooks/01_first.ipynb; rm ~/notebooks/README.md", volumes=volumes)
    listing = run("bash", "-c", f"{begin}; cd ~/notebooks; find . -type f | sort; cat 01_first.ipynb", volumes=volumes)
    assert listing.split() == ["./01_first.ipynb", "./README.md", "./more/02_second.ipynb", "./scripts/line.py", "mine"]


def test_unwritable_home_is_told_in_plain_words_and_the_lab_still_answers(home: str, start: Callable[..., Any], run: Run) -> None:
    run("chown", "0:0", "/home/engineer", user="0", cap_drop=[], **mounted(home))
    lab = start(**mounted(home))
    wait_until_it_answers(lab)
    assert "cannot be written to, so nothing you save there will last" in lab.logs().decode()


def test_stop_is_quick_because_signals_arrive(start: Callable[..., Any]) -> None:
    lab = start()
    wait_until_it_answers(lab)
    began = time.monotonic()
    lab.stop(timeout=30)
    assert time.monotonic() - began < 10


def scores(lab: Any) -> dict[str, int]:
    """Command line → how early the kernel would kill it for memory, of every process of a lab."""
    script = "cd /proc; for p in [0-9]*; do echo $(cat $p/oom_score_adj) $(tr -c '[:print:]' ' ' < $p/cmdline); done 2>/dev/null"
    lines = lab.exec_run(["bash", "-c", script]).output.decode().splitlines()
    return {words: int(score) for score, _, words in (line.partition(" ") for line in lines)}


def test_terminals_and_whatever_else_runs_go_before_the_server_when_memory_is_full(start: Callable[..., Any]) -> None:
    lab = start(command=["gpulab-start", "--IdentityProvider.token=x"])
    wait_until_it_answers(lab)
    ask = "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8888/api/terminals?token=x', b''), timeout=20)"
    assert lab.exec_run(["python", "-c", ask]).exit_code == 0
    lab.exec_run(["sleep", "600"], detach=True)
    deadline = time.monotonic() + ANSWER_SECONDS
    while scores(lab).get("sleep 600", 0) == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    found = scores(lab)
    assert (found["/bin/bash -l"], found["sleep 600"]) == (1000, 1000)
    assert {score for words, score in found.items() if "jupyter lab" in words or "jupyter-lab" in words} == {0}


def test_a_server_that_is_killed_from_outside_says_that_it_was_not_for_memory(start: Callable[..., Any]) -> None:
    lab = start()
    wait_until_it_answers(lab)
    lab.exec_run(["bash", "-c", "kill -9 $(pgrep -f bin/jupyter-lab)"])
    assert lab.wait(timeout=30)["StatusCode"] == 137
    report = evidence.parse(lab.logs())
    assert report is not None
    assert (report.signal, report.kills, report.deaths) == (9, 0, ())
    remains = Remains(137, oom_killed=False, error="", memory=0, log=lab.logs())
    assert evidence.why(remains, None, None).startswith("The lab was killed from outside")


def test_a_lab_ends_with_the_code_of_its_server(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run(IMAGE, ["gpulab-start", "--port=x"], remove=True, stderr=True, **RESTRICTED)
    assert failed.value.exit_status == 1


def test_what_an_engineer_installs_goes_home_and_breaks_nothing(run: Run, home: str) -> None:
    script = """
mkdir -p /tmp/p/numpy && cd /tmp/p && echo 'raise SystemExit("broken")' > numpy/__init__.py && echo 'x = 1' > mine.py
cat > pyproject.toml <<'T'
[build-system]
requires = []
build-backend = "setuptools.build_meta"
[project]
name = "mine"
version = "1"
[tool.setuptools]
packages = ["numpy"]
py-modules = ["mine"]
T
pip install --quiet --no-index --no-build-isolation . 2>&1 && cd / &&
python -c 'import mine, numpy; print(mine.__file__, numpy.__file__)'
"""
    mine, numpy = run("bash", "-c", script, **mounted(home)).split()[-2:]
    assert mine.startswith("/home/engineer/.local/")
    assert numpy.startswith("/opt/lab/")


def test_lab_asks_nobody_outside_for_news_or_extensions(run: Run) -> None:
    assert "extension_manager" in run("cat", "/opt/lab/etc/jupyter/jupyter_lab_config.json")
    listing = run("jupyter", "labextension", "list")
    assert "@jupyterlab/apputils-extension:announcements" in listing.split("Disabled extensions:")[1]


def test_without_a_hub_there_are_no_notices_and_strangers_read_none(start: Callable[..., Any]) -> None:
    lab = start(command=["gpulab-start", "--IdentityProvider.token=secret"])
    wait_until_it_answers(lab)
    ask = """
import sys, urllib.error, urllib.request as r
asked = r.Request("http://127.0.0.1:8888/gpulab/notices", headers=dict([sys.argv[1:]] if sys.argv[1:] else []))
try:
    print(r.urlopen(asked).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""
    answer = lab.exec_run(["python", "-c", ask, "Authorization", "token secret"]).output.decode()
    assert json.loads(answer) == {"notices": [], "maintenance": None, "home": ""}
    assert lab.exec_run(["python", "-c", ask]).output.decode().strip() == "403"

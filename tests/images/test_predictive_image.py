"""The image for predictive maintenance: all that its parent is, and its own packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest

from spawner import labfile
from tests.images.test_lab_image import REPO, RESTRICTED

CHILD, PARENT = "gpulab/predictive:latest", "gpulab/pytorch:latest"
FOLDER = REPO / "images" / "predictive"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.from_env()
    yield connection
    connection.close()


def run(client: docker.DockerClient, image: str, *command: str) -> str:
    output: bytes = client.containers.run(image, list(command), remove=True, stderr=True, **RESTRICTED)
    return output.decode()


def pinned(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.M))


def test_revision_label_names_what_this_checkout_would_build(client: docker.DockerClient) -> None:
    told = subprocess.run([sys.executable, "scripts/images.py", "revision"], cwd=REPO, capture_output=True, text=True, check=True)
    expected = json.loads(told.stdout)
    labels = client.images.get(CHILD).labels
    assert labels["io.gpulab.revision"] == expected["revisions"]["predictive"] != expected["revision"]
    assert labels["io.gpulab.variant"] == expected["variant"]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_its_lock_holds_only_what_the_parent_has_not(kind: str) -> None:
    own, parent = (pinned((folder / f"{kind}.lock").read_text()) for folder in (FOLDER, REPO / "images" / "pytorch"))
    assert "statsmodels" in own
    assert set(own) & set(parent) == set()


def test_packages_agree_with_each_other_and_none_of_the_parents_was_replaced(client: docker.DockerClient) -> None:
    listed = "python -m pip check >&2; python -m pip list --format json"
    found: dict[str, dict[str, str]] = {}
    for image in (PARENT, CHILD):
        said = run(client, image, "bash", "-c", listed).splitlines()
        assert said[0] == "No broken requirements found.", said
        listing: list[dict[str, str]] = json.loads(said[-1])
        found[image] = {package["name"].lower().replace("_", "-"): package["version"] for package in listing}
    kind = client.images.get(CHILD).labels["io.gpulab.variant"]
    assert {name: found[CHILD][name] for name in found[PARENT]} == found[PARENT]
    own = pinned((FOLDER / f"{kind}.lock").read_text())
    assert {name: version for name, version in found[CHILD].items() if name not in found[PARENT]} == own


def test_what_was_asked_for_imports_without_a_warning_and_computes(client: docker.DockerClient) -> None:
    code = """
import numpy as np
import statsmodels.api as sm
noise = np.random.default_rng(0).normal(size=500)
x = np.arange(500.0)
fit = sm.OLS(3 * x + noise, sm.add_constant(x)).fit(cov_type="HAC", cov_kwds={"maxlags": 10})
print(abs(fit.params[1] - 3) < 0.01)
"""
    assert run(client, CHILD, "python", "-W", "error", "-c", code).strip() == "True"


def test_it_starts_and_shows_the_notebooks_as_its_parent_does(client: docker.DockerClient) -> None:
    of_parent, of_child = (client.images.get(image).attrs["Config"] for image in (PARENT, CHILD))
    for key in ("Cmd", "Entrypoint", "Env", "User", "WorkingDir", "ExposedPorts"):
        assert of_child.get(key) == of_parent.get(key), key
    notebooks = ("bash", "-c", "cd /opt/gpulab/notebooks && sha256sum *.ipynb defectlab/*.py")
    assert run(client, CHILD, *notebooks) == run(client, PARENT, *notebooks)


def test_the_shipped_profile_asks_for_it() -> None:
    profiles = labfile.load(REPO / "lab.yaml").profiles
    assert profiles["predictive"].image == CHILD

"""The two images of a run, under names of the run's own.

Owns building the peer's image and pinning the lab's. Never changes or removes an image of the lab.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound

from scripts import images

REPOSITORY = "gpulab/bench"
RECIPE = Path(__file__).with_name("plain.Dockerfile")
LABEL_STAGE = "io.gpulab.stage=bench-wheels"
# Far larger than everything else together, and not the peer's.
NOT_THE_PEERS = ("torch-", "nvidia_", "triton-")
SAME = ("jupyterhub", "jupyterlab", "ipywidgets", "jupyter-server", "notebook", "tornado", "aiohttp", "traitlets")
ASK_VERSIONS = """
import importlib.metadata as m, json, platform, sys
found = {d.metadata["name"].lower().replace("_", "-"): d.version for d in m.distributions()}
print(json.dumps({"python": platform.python_version()} | {n: found[n] for n in sys.argv[1:] if n in found}))
"""


def build_plain(client: Any) -> str:
    """The peer's image; returns its name."""
    kind = images.variant()
    lock = images.lock_file(kind).read_bytes()
    tag = f"{REPOSITORY}:plain-{images.digest(images.base_tag().encode(), lock, RECIPE.read_bytes())}"
    if images.find(client, tag):
        return tag
    base = images.ensure_base(client)
    wheels = [path for path in images.ensure_wheelhouse(kind).iterdir() if not path.name.startswith(NOT_THE_PEERS)]
    files = {"Dockerfile": RECIPE} | {f"wheelhouse/{path.name}": path for path in sorted(wheels)}
    with images.timed("building the peer's image"):
        images.build(client, files, tag, {"BASE": base})
    client.images.prune(filters={"dangling": True, "label": LABEL_STAGE})
    return tag


def pin_lab(client: Any, image: str, run: str) -> str:
    """A name of the run's own for the lab's image, so that a rebuild meanwhile changes nothing; returns it.

    Raises:
        images.Problem: the lab's image is not there.
    """
    found = images.find(client, image)
    if not found:
        raise images.Problem(f"The image {image} is missing: run 'make image', then this command again.")
    found.tag(REPOSITORY, f"lab-{run}")
    return f"{REPOSITORY}:lab-{run}"


def versions(client: Any, image: str) -> dict[str, str]:
    """Versions of Python and of the packages that decide how fast a server starts, asked of the image itself."""
    output = client.containers.run(image, ["python", "-c", ASK_VERSIONS, *SAME], network_mode="none", remove=True)
    found: dict[str, str] = json.loads(output)
    return found


def require_same_versions(lab: dict[str, str], plain: dict[str, str]) -> None:
    """Refuse to compare apples with pears.

    Raises:
        images.Problem: a package has two versions.
    """
    differing = [name for name in plain if name in lab and lab[name] != plain[name]]
    if differing:
        words = ", ".join(f"{name} ({lab[name]} in the lab, {plain[name]} in the peer)" for name in differing)
        raise images.Problem(f"The two images differ in {words}: run 'make image', then this command again.")


@contextlib.contextmanager
def both(client: Any, lab_image: str, run: str, keep: bool) -> Iterator[tuple[str, str]]:
    """The names of the lab's and the peer's image while a run lasts.

    Args:
        client: the engine.
        lab_image: the lab's image as lab.yaml names it.
        run: the run's own word.
        keep: leave the peer's image in the engine for the next run.
    """
    lab = pin_lab(client, lab_image, run)
    plain = ""
    try:
        plain = build_plain(client)
        yield lab, plain
    finally:
        for tag in (lab, *([plain] if plain and not keep else [])):
            with contextlib.suppress(ImageNotFound, APIError):
                client.images.remove(tag)

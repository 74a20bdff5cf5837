"""Starter notebooks in full, and the figures they record: `python -m bench.notebooks 01_first_defect_model …`.

Owns a run of notebooks as a lab would run them: this checkout's notebooks in the lab's image, by the executor of their tests,
within the limits of a profile, without network. Never writes a result of a notebook that failed or recorded nothing, and never
runs the short trial form.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import nbformat

from bench import outcome
from bench.report import markdown_table
from scripts import images
from spawner import labfile
from spawner.hostconfig import has_cdi
from spawner.model import LabConfig, Profile
from tests.notebooks import image as lab

NOTEBOOKS = lab.REPO / "notebooks"
VERSIONS = (
    "torch",
    "onnxruntime",
    "onnx",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "statsmodels",
    "pillow",
    "nbclient",
    "ipykernel",
)
PATHS = ("--data", "--models", "--out")
ASK = """
import importlib.metadata as m, json, platform, sys, torch
found = {d.metadata["name"].lower().replace("_", "-"): d.version for d in m.distributions()}
count = torch.cuda.device_count()
print("\\n" + json.dumps({
    "versions": {"python": platform.python_version()} | {n: found[n] for n in sys.argv[1:] if n in found},
    "gpus": [f"{torch.cuda.get_device_name(n)}, {torch.cuda.mem_get_info(n)[1] / 2**30:.0f} GiB" for n in range(count)],
    "cuda": str(torch.version.cuda), "instructions": torch.backends.cpu.get_cpu_capability()}))
"""


class Failed(Exception):
    """A notebook gave no result; its text is for a person."""


def source_of(notebook: nbformat.NotebookNode) -> str:
    """A short digest of a notebook's code: its prose may change, and the result is still its own."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def limits(profile: Profile) -> dict[str, Any]:
    """A profile's limits, as the executor takes them."""
    return {
        "cpu_quota": int(profile.cpus * lab.LIMITS["cpu_period"]),
        "mem_limit": profile.memory,
        "memswap_limit": profile.memory,
        "shm_size": profile.shm,
        "pids_limit": profile.pids,
    }


def devices(client: Any) -> dict[str, Any]:
    """All GPUs of this machine, asked for in the way that its engine knows."""
    if has_cdi(client.info(), client.api.api_version):
        request = docker.types.DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])
    else:
        request = docker.types.DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]])
    return {"device_requests": [request], "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}


def folders(config: LabConfig, asked: argparse.Namespace) -> Path | None:
    """The folder with data sets to use; None where a fresh default set is to be made."""
    if asked.data is not None:
        return Path(asked.data).resolve()
    there = config.mounts.datasets
    found = there.is_dir() and any((entry / "SHA256SUMS").is_file() for entry in there.iterdir())
    return there if found else None


@contextlib.contextmanager
def mounted(client: Any, config: LabConfig, asked: argparse.Namespace, image: str) -> Iterator[dict[str, Any]]:
    """What a lab mounts: data sets to read, a folder for models, and the notebooks of this checkout over those of the image."""
    here = {str(NOTEBOOKS): {"bind": "/opt/gpulab/notebooks", "mode": "ro"}}
    data = folders(config, asked)
    names = [*(["data"] if data is None else []), *([] if asked.models else ["models"])]
    with lab.volumes(client, *names) as made:
        made = list(made)
        source = made.pop(0) if data is None else str(data)
        models = str(Path(asked.models).resolve()) if asked.models else made.pop(0)
        if data is None:
            outcome.say("writing the data set `textures` ...")
            write = ("python", "-m", "defectlab", "data", "textures", "--out", "/workspace/data", "--quiet")
            code, said = lab.run(client, *write, image=image, volumes={**here, source: {"bind": "/workspace/data", "mode": "rw"}})
            if code != 0:
                raise Failed(f"The data set `textures` could not be written: {said[-500:]}")
        yield {
            **here,
            source: {"bind": "/workspace/data", "mode": "ro"},
            models: {"bind": "/workspace/models", "mode": "rw"},
        }


def ask(client: Any, image: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and GPUs, asked of the image itself.

    Raises:
        Failed: it does not answer, or has no GPU where all were asked for.
    """
    code, said = lab.run(client, "python", "-c", ASK, *VERSIONS, image=image, **more)
    if code != 0:
        raise Failed(f"The image does not tell its versions: {said[-500:]}")
    found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    if "device_requests" in more and not found["gpus"]:
        raise Failed("The image is for GPUs, and PyTorch finds none in it: `gpulab doctor` says more.")
    return found


def run(client: Any, name: str, mounts: dict[str, Any], more: Mapping[str, Any]) -> nbformat.NotebookNode:
    """Execute one notebook in full.

    Raises:
        Failed: a cell failed, something warned, or nothing was recorded.
    """
    outcome.say(f"{name} ...")
    try:
        found = lab.execute(client, f"{name}.ipynb", mounts=dict(mounts), smoke=False, **more)
    except AssertionError as error:
        raise Failed(f"{name} could not be executed: {error}") from error
    if "error" in found.metadata:
        raise Failed(f"{name} failed: {found.metadata.error[-4000:]}")
    warned = "".join(o.text for c in found.cells for o in c.get("outputs", ()) if o.get("name") == "stderr")
    if warned:
        raise Failed(f"{name} warned, which counts as a failure: {warned[-2000:]}")
    if not found.metadata.figures:
        raise Failed(f"{name} recorded no figures: its last code cell has to call `figures.record`.")
    return found


def written(name: str, found: nbformat.NotebookNode, origin: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """Both files of one notebook's result."""
    meta = found.metadata
    origin = {**origin, "notebook": f"{name}, code {source_of(found)}"}
    target = outcome.path(asked.out, f"notebook-{name}", origin, origin["gpus"])
    rows = [[key, f"{value:,}" if isinstance(value, int) else f"{value:.6g}"] for key, value in meta.figures.items()]
    text = [
        f"It took {meta.seconds:.0f} s and had at most {meta.peak_bytes / 1e9:.2f} GB in use.",
        markdown_table(["figure", "recorded"], rows),
    ]
    samples = {
        "notebook": name, "code": source_of(found), "cpus": origin["limits"]["cpus"], "gpus": origin["gpus"],
        "seconds": meta.seconds, "peak_bytes": meta.peak_bytes, "figures": dict(meta.figures),
    }  # fmt: skip
    outcome.write(target, f"{name}, in full", origin, "\n\n".join(text), samples)


def anonymous(words: Sequence[str]) -> list[str]:
    """The words of the command line without paths of this machine."""
    found: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if option in PATHS and equals:
            word = f"{option}=FOLDER"
        elif found and found[-1] in PATHS:
            word = "FOLDER"
        found.append(word)
    return found


def image_of(client: Any, name: str) -> Any:
    """An image of the engine.

    Raises:
        Failed: it is not there.
    """
    found = images.find(client, name)
    if not found:
        raise Failed(f"The image {name} is missing: run 'make image', then this command again.")
    return found


def measure(asked: argparse.Namespace) -> None:
    """All notebooks that were asked for, each with a result of its own as soon as it is done."""
    client = docker.from_env(timeout=lab.MOST_SECONDS)
    config = labfile.load(lab.REPO / "lab.yaml")
    image = f"gpulab/bench:notebooks-{secrets.token_hex(3)}"
    found = image_of(client, config.image)
    cuda = found.labels.get("io.gpulab.variant") == "cuda"
    profile = config.profiles[asked.profile or ("reference" if cuda else "cpu")]
    found = image_of(client, profile.image or config.image)
    # A name of the run's own, so that a rebuild meanwhile changes nothing.
    found.tag(*image.split(":"))
    try:
        given = devices(client) if cuda else {}
        told = ask(client, image, given)
        origin = outcome.begun(asked, versions=told["versions"])
        origin |= {
            "command": f"python -m bench.notebooks {shlex.join(anonymous(asked.words))}",
            "image": {"variant": found.labels["io.gpulab.variant"], "revision": found.labels["io.gpulab.revision"]},
            "limits": {"profile": profile.key, "cpus": profile.cpus, "memory": profile.memory, "shm": profile.shm},
            "instructions": told["instructions"],
            "gpus": told["gpus"],
            **({"cuda": told["cuda"]} if told["gpus"] else {}),
        }
        environment = {"GPULAB_PROFILE": profile.key, **given.get("environment", {})}
        more = {**given, **limits(profile), "image": image, "environment": environment}
        with mounted(client, config, asked, image) as mounts:
            for name in asked.notebooks:
                written(name, run(client, name, mounts, more), origin, asked)
    finally:
        with contextlib.suppress(docker.errors.DockerException):
            client.images.remove(image)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = outcome.parser("notebooks", "Run starter notebooks in full in the lab's image, and keep the figures they record.")
    known = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    parser.add_argument("notebooks", nargs="+", choices=known, metavar="NOTEBOOK", help=f"one or more of {', '.join(known)}")
    parser.add_argument("--data", help="folder with data sets (default: that of lab.yaml; where it has none, a fresh `textures`)")
    parser.add_argument("--models", help="folder for models (default: one that is gone afterwards)")
    parser.add_argument(
        "--profile", help="whose image and limits to take (default: cpu, and reference where the image is for GPUs)"
    )
    asked = parser.parse_args(argv)
    asked.words = list(sys.argv[1:] if argv is None else argv)
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    os.chdir(lab.REPO)
    try:
        measure(arguments(argv))
    except (Failed, images.Problem) as error:
        print(f"Nothing was written of it: {error}", file=sys.stderr)
        return 1
    except docker.errors.DockerException as error:
        print(f"Nothing was written of it; the Docker engine failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

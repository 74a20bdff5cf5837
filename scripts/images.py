"""Owns the way from images/images.toml to images in the engine: base, wheelhouse, environments, lab images.

Never starts a lab and never imports the hub's code. What each image is made of decides its name or its
`io.gpulab.revision` label, so an image whose inputs did not change is never built again.

usage: images.py ensure | base | state | revision | variant | remove
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
# Run by its path, Python looks beside this file only; the bench and the tests import it from the root. E402: so the import
# comes after the path is set.
sys.path.insert(0, str(ROOT))
from scripts.apt_archive import KEYRING, debian_mirror, with_apts_proxy  # noqa: E402

IMAGES = ROOT / "images"
NOTEBOOKS = ROOT / "notebooks"
LAB = Path(os.environ.get("GPULAB_STATE", ROOT / ".lab"))
CACHE = LAB / "cache"
LOG = LAB / "log" / "image.log"
# The image that lab.yaml names first; the others are its children.
PARENT = "pytorch"
BASES = ("registry", "debootstrap")
# Shorter than the engine's own patience with a silent registry (15 s), whose error would not say that it was silence.
PROBE_SECONDS = 10
BUILD_SECONDS = 3600
# Every tag a wheel may carry that runs on the base's glibc 2.36.
GLIBC_MINORS = (5, 12, 17, 24, 26, 27, 28, 31, 34)
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Problem(Exception):
    """One sentence for the person at the terminal: what went wrong and what to do."""


def say(words: str) -> None:
    """Prints one line of progress."""
    print(f"    {words}", flush=True)


@contextlib.contextmanager
def timed(title: str) -> Iterator[None]:
    """Says what is being done and how long it took."""
    say(f"{title} ...")
    began = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - began:.0f} s")


def run(command: list[str], failure: str, env: dict[str, str] | None = None) -> None:
    """Runs a command with its words in the image log; raises `Problem` after showing the log's last lines."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        start = log.tell()
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode != 0:
        with LOG.open("rb") as log:
            log.seek(start)
            tail = log.read().decode(errors="replace").splitlines()[-12:]
        print("\n".join(tail), file=sys.stderr)
        raise Problem(failure)


# --- what the images are made of


def hierarchy() -> dict[str, dict[str, Any]]:
    """The entries of images.toml by name."""
    document = tomllib.loads((IMAGES / "images.toml").read_text())
    return {entry["name"]: entry for entry in document["image"]}


def variant() -> str:
    """`cuda` where the driver lists a GPU, else `cpu`; GPULAB_VARIANT decides otherwise."""
    asked = os.environ.get("GPULAB_VARIANT")
    known = hierarchy()[PARENT]["variants"]
    if asked:
        if asked not in known:
            raise Problem(f"GPULAB_VARIANT is '{asked}', but there are {' and '.join(known)}: set one of these.")
        return asked
    if not shutil.which("nvidia-smi"):
        return "cpu"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607
    return "cuda" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"


def digest(*parts: bytes) -> str:
    """A short name for some bytes; lengths go in too, so that no two lists of parts share one."""
    total = hashlib.sha256()
    for part in parts:
        total.update(str(len(part)).encode() + b":" + part)
    return total.hexdigest()[:12]


def base_packages() -> list[str]:
    """The packages of the Debian root, without their comments."""
    lines = (IMAGES / "base" / "packages.txt").read_text().splitlines()
    return [name for line in lines if (name := line.split("#")[0].strip())]


def base_tag() -> str:
    """The base's name in the engine."""
    entry = hierarchy()["base"]
    parts = [entry["pinned"], entry["suite"], *base_packages()]
    return f"gpulab/base:{digest(*map(str.encode, parts))}"


def labs() -> list[str]:
    """The images that labs start from, the parent first."""
    return [PARENT, *(name for name, entry in hierarchy().items() if entry.get("parent") == PARENT)]


def tag_of(name: str, kind: str) -> str:
    """A lab image's name in the engine."""
    return f"gpulab/{name}:{kind}"


def lock_file(kind: str, name: str = PARENT) -> Path:
    """The lock of a variant."""
    return IMAGES / name / str(hierarchy()[name]["variants"][kind]["lock"])


def recipe_file(name: str) -> Path:
    """What installs the Python packages: the parent's on the base, a child's on the parent's packages."""
    return IMAGES / name / ("environment.Dockerfile" if name == PARENT else "Dockerfile")


def environment_prefix(kind: str, name: str) -> str:
    """How the names of all environments of a variant begin."""
    return f"gpulab/environment:{'' if name == PARENT else name + '-'}{kind}-"


def environment_tag(kind: str, name: str = PARENT) -> str:
    """The environment's name in the engine: it changes with what it stands on, its lock and its Dockerfile, nothing else."""
    below = base_tag() if name == PARENT else environment_tag(kind)
    parts = (below.encode(), lock_file(kind, name).read_bytes(), recipe_file(name).read_bytes())
    return environment_prefix(kind, name) + digest(*parts)


def lab_files() -> dict[str, Path]:
    """What goes into every lab image on top of its environment: path in the build context -> file."""
    here = IMAGES / PARENT
    files = {name: here / name for name in ("Dockerfile", "start", "guard.py")} | {"notebooks": NOTEBOOKS}
    for folder in ("etc", "share", "python"):
        found = (path for path in (here / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
        files |= {str(path.relative_to(here)): path for path in found}
    for path in NOTEBOOKS.rglob("*"):
        name = path.relative_to(NOTEBOOKS)
        passing = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not passing:
            files[f"notebooks/{name}"] = path
    return dict(sorted(files.items()))


def revision(kind: str, name: str = PARENT) -> str:
    """Names everything a lab image is made of."""
    parts = [environment_tag(kind, name).encode()]
    for place, path in lab_files().items():
        if path.is_file():
            parts += [place.encode(), path.read_bytes()]
    return digest(*parts)


# --- building


def engine() -> Any:
    """The engine DOCKER_HOST or the default socket names."""
    try:
        client = docker.from_env(timeout=BUILD_SECONDS)
        client.ping()
    except DockerException as error:
        raise Problem("No Docker engine answers: run 'make setup', then this command again.") from error
    return client


def find(client: Any, tag: str) -> Any:
    """The image of that name, or None."""
    try:
        return client.images.get(tag)
    except ImageNotFound:
        return None


def registry_refusal(pinned: str) -> str:
    """Why the engine cannot have the image from a registry; empty where it can. Asks for its manifest only, not for long."""
    name = pinned.split("@")[0]
    try:
        docker.from_env(timeout=PROBE_SECONDS).images.get_registry_data(pinned)
    except NotFound:
        return f"the engine's registry has no {name} with the pinned digest"
    except (requests.Timeout, TimeoutError):
        return f"no container registry answers the Docker engine within {PROBE_SECONDS} s"
    except (DockerException, OSError):
        return "no container registry answers the Docker engine"
    return ""


def pull_base(client: Any, pinned: str, tag: str) -> None:
    """Fetches the pinned official image and gives it our name."""
    known = find(client, pinned)
    with timed(f"pulling {pinned.split('@')[0]}"):
        client.images.pull(pinned, platform="linux/amd64").tag(tag)
    if not known:
        # Its first name would keep it in the engine after `make clean`, which takes only our own names away.
        client.images.remove(pinned)


def bootstrap_base(client: Any, suite: str, tag: str, reason: str) -> None:
    """Makes a Debian root from the host's mirror and brings it into the engine; `reason` says why not from a registry."""
    mirror, packages = debian_mirror(), ",".join(base_packages())
    because = reason[:1].upper() + reason[1:]
    if not mirror:
        raise Problem(
            f"{because}, and this host's apt names no Debian mirror: let the engine reach a registry that has the "
            "image, or set GPULAB_DEBIAN_MIRROR to a Debian mirror, then run this command again."
        )
    if os.geteuid() != 0:
        raise Problem(
            f"{because}, and only root can bootstrap a Debian root instead: run 'sudo make image' once, then this command again."
        )
    if not shutil.which("debootstrap") or not KEYRING.exists():
        run(
            [
                "bash",
                "-c",
                '. "$0" && apt_install "a base without a registry" debootstrap debian-archive-keyring',
                str(ROOT / "scripts" / "lib.sh"),
            ],
            "debootstrap is missing: make 'apt-get install debootstrap' work, then run this command again.",
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="root-", dir=CACHE) as folder:
        root = Path(folder) / "root"
        with timed(f"bootstrapping Debian {suite} from this host's apt mirror ({reason})"):
            run(
                [
                    "debootstrap",
                    "--variant=minbase",
                    "--force-check-gpg",
                    f"--keyring={KEYRING}",
                    f"--include={packages}",
                    suite,
                    str(root),
                    mirror,
                ],
                f"debootstrap failed (log: {LOG}): make the Debian mirror that apt uses here reachable, "
                "then run this command again.",
                with_apts_proxy(),
            )
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(root / leftover, ignore_errors=True)
            (root / leftover).mkdir(parents=True)
        with timed("importing it"):
            archive = Path(folder) / "root.tar"
            run(
                ["tar", "-C", str(root), "-cf", str(archive), "."],
                "The Debian root could not be packed: free some GB of disk, then run this command again.",
            )
            repository, _, version = tag.partition(":")
            client.api.import_image_from_file(str(archive), repository=repository, tag=version)


def ensure_base(client: Any) -> str:
    """The base, from a registry or bootstrapped; returns its name."""
    tag, entry = base_tag(), hierarchy()["base"]
    if find(client, tag):
        return tag
    asked = os.environ.get("GPULAB_BASE", "")
    if asked not in ("", *BASES):
        raise Problem(f"GPULAB_BASE is '{asked}', but there are {' and '.join(BASES)}: set one of these.")
    reason = "GPULAB_BASE says so" if asked else registry_refusal(entry["pinned"])
    if asked == "registry" or not reason:
        try:
            pull_base(client, entry["pinned"], tag)
        except (APIError, OSError) as error:
            raise Problem(
                "The base image could not be pulled: check the engine's way to its registry, or set "
                "GPULAB_BASE=debootstrap, then run this command again."
            ) from error
    else:
        bootstrap_base(client, entry["suite"], tag, reason)
    return tag


def without_torch(lock: str) -> tuple[str, str]:
    """A lock in two: everything but torch, and torch alone, which may have to come from elsewhere."""
    rest: list[str] = []
    torch: list[str] = []
    current = rest
    for line in lock.splitlines():
        if line and not line[0].isspace():
            current = torch if line.startswith("torch==") else rest
        current.append(line)
    return "\n".join(rest) + "\n", "\n".join(torch) + "\n"


def download(lock: Path, folder: Path, failure: str, *extra: str) -> None:
    """Fetches exactly the wheels a lock names, for the base's Python, whatever Python runs here."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--implementation=cp"]
    command += ["--python-version", hierarchy()[PARENT]["python"]]
    command += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    command += [f"--platform={platform}" for platform in platforms]
    run([*command, "--dest", str(folder), "--requirement", str(lock), *extra], failure)


def ensure_wheelhouse(kind: str, name: str = PARENT) -> Path:
    """All wheels of a lock, checked against it; returns their folder."""
    lock = lock_file(kind, name)
    shelf = CACHE / "wheelhouse"
    title = kind if name == PARENT else f"{name}-{kind}"
    done = shelf / f"{title}-{digest(lock.read_bytes())}"
    if done.is_dir():
        return done
    for old in shelf.glob(f"{title}-*"):
        shutil.rmtree(old)
    partial = shelf / f"{title}-partial"
    partial.mkdir(parents=True)
    rest, torch = without_torch(lock.read_text())
    failure = (
        f"The Python packages could not be downloaded (log: {LOG}): make pip's index reachable, then run this command again."
    )
    with timed(f"downloading the Python packages ({title})"), tempfile.TemporaryDirectory() as folder:
        for file, text in (("rest.lock", rest), ("torch.lock", torch)):
            (Path(folder) / file).write_text(text)
        download(Path(folder) / "rest.lock", partial, failure)
        try:
            if torch.strip():
                download(Path(folder) / "torch.lock", partial, failure)
        except Problem:
            if kind != "cpu":
                raise
            say("this host's pip configuration has no CPU build of torch; taking it from PyTorch's own index")
            download(Path(folder) / "torch.lock", partial, failure, "--index-url", PYTORCH_CPU_INDEX)
    partial.rename(done)
    return done


def build(client: Any, files: dict[str, Path], tag: str, arguments: dict[str, str]) -> None:
    """Builds one Dockerfile from a context of exactly these files, without network.

    Raises:
        Problem: the engine refused a step; its last words are shown.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=CACHE) as context:
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, path in files.items():
                archive.add(path, name, recursive=False)
        context.seek(0)
        words: list[str] = []
        stream = client.api.build(
            fileobj=context, custom_context=True, tag=tag, buildargs=arguments, network_mode="none",
            rm=True, forcerm=True, decode=True,
        )  # fmt: skip
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with LOG.open("a") as log:
            for event in stream:
                text = event.get("stream") or event.get("error") or ""
                log.write(text)
                words.append(text)
                if "error" in event:
                    print("".join(words[-15:]), file=sys.stderr)
                    raise Problem(
                        f"The image {tag} could not be built (log: {LOG}): mend what the lines above say, "
                        "then run this command again."
                    )


def ensure_environment(client: Any, kind: str, name: str = PARENT) -> str:
    """The Python packages of an image as an image; returns its name."""
    tag = environment_tag(kind, name)
    if find(client, tag):
        return tag
    below = {"BASE": ensure_base(client)} if name == PARENT else {"ENVIRONMENT": ensure_environment(client, kind)}
    wheels = ensure_wheelhouse(kind, name)
    files = {"Dockerfile": recipe_file(name), "requirements.lock": lock_file(kind, name)}
    files |= {f"wheelhouse/{path.name}": path for path in sorted(wheels.iterdir())}
    with timed(f"installing the Python packages ({tag_of(name, kind)})"):
        build(client, files, tag, below)
    # The first stage would lie in the engine for ever, as large as all wheels together.
    client.images.prune(filters={"dangling": True, "label": "io.gpulab.stage=wheels"})
    return tag


def drop_superseded(client: Any, prefix: str, environment: str) -> None:
    """Gives the disk back that older images took; one that a running lab still uses stays until it ends."""
    client.images.prune(filters={"dangling": True, "label": "io.gpulab.revision"})
    for image in client.images.list("gpulab/environment"):
        for tag in image.tags:
            if tag.startswith(prefix) and tag != environment:
                with contextlib.suppress(APIError):
                    client.images.remove(tag)


def ensure() -> None:
    """The lab images, current and tagged, parents first."""
    client, kind = engine(), variant()
    for name in labs():
        ensure_lab(client, kind, name)


def ensure_lab(client: Any, kind: str, name: str) -> None:
    """One lab image, current and tagged."""
    wanted, tag = revision(kind, name), tag_of(name, kind)
    present = find(client, tag)
    if present and present.labels.get("io.gpulab.revision") == wanted:
        say(f"{tag} is current (revision {wanted})")
    else:
        environment = ensure_environment(client, kind, name)
        with timed(f"building {tag}"):
            arguments = {"ENVIRONMENT": environment, "VARIANT": kind, "REVISION": wanted}
            build(client, lab_files(), tag, arguments)
        client.images.get(tag).tag(f"gpulab/{name}", "latest")
        drop_superseded(client, environment_prefix(kind, name), environment)
        say(f"{tag} has revision {wanted}")
    client.images.get(tag).tag(f"gpulab/{name}", "latest")


def state() -> None:
    """One line per lab image on whether it is there and current."""
    client, kind = engine(), variant()
    for name in labs():
        tag = tag_of(name, kind)
        present = find(client, tag)
        if not present:
            print(f"{tag} is missing ('make image' builds it)")
        elif present.labels.get("io.gpulab.revision") != revision(kind, name):
            print(f"{tag} is older than this checkout ('make image' builds it)")
        else:
            print(f"{tag} is current (revision {revision(kind, name)})")


def told_revision() -> None:
    """Variant and revisions of this checkout, as JSON."""
    kind = variant()
    print(json.dumps({"variant": kind, "revision": revision(kind), "revisions": {name: revision(kind, name) for name in labs()}}))


def remove() -> None:
    """Takes the lab's images out of the engine, unless another lab on this engine has containers of them."""
    client = engine()
    if client.containers.list(all=True, filters={"label": "io.gpulab.lab"}, ignore_removed=True):
        say("another lab on this engine uses the images; they stay")
        return
    tags = [tag for image in client.images.list() for tag in image.tags]
    # Children first: what another image stands on stays until that is gone.
    for repository in (*(f"gpulab/{name}" for name in reversed(labs())), "gpulab/environment", "gpulab/base"):
        for tag in tags:
            if tag.rpartition(":")[0] == repository:
                with contextlib.suppress(APIError):
                    client.images.remove(tag)
                    say(f"removed image {tag}")


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    commands: dict[str, Callable[[], None]] = {
        "ensure": ensure,
        "base": lambda: print(ensure_base(engine())),
        "remove": remove,
        "state": state,
        "revision": told_revision,
        "variant": lambda: print(variant()),
    }
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: images.py {' | '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]]()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The image could not be made: {error}. Mend that, then run this command again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

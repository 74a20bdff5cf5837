"""The slip of paper that goes to the line with a model.

Owns the manifest: what the model was trained on, by which code, how good it is, where its threshold lies, what it wants to be
fed; and the seal that shows whether any of that, or the model, was changed since. Never runs a model.

    MODEL.manifest.json    for people and programs; `seal` in it is an HMAC-SHA-256 over everything else

A checksum alone tells of accidents. The seal tells of intent, too: who does not have the key cannot make one. It needs no more
than Python; whoever verifies holds the same key, which suits a plant with one lab and its own lines.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import platform
import secrets
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from defectlab import files

FORMAT = 1
_ENDING = ".manifest.json"
_KEY_BYTES = 32


class ManifestError(Exception):
    """A manifest cannot be written, or does not vouch for its model; one sentence for a person, with what to do."""


@dataclass(frozen=True, slots=True)
class InputContract:
    """What the line must feed.

    Attributes:
        height, width: of an image in pixels.
        channels: 1 for grey.
        dtype: of a pixel.
        low, high: range of a pixel.
        resize: how a larger picture is brought to that size.
    """

    height: int
    width: int
    channels: int = 1
    dtype: str = "uint8"
    low: int = 0
    high: int = 255
    resize: str = "box"


@dataclass(frozen=True, slots=True)
class About:
    """What is said about a model.

    Attributes:
        name: of the model.
        data: name, digest and licence of what it was trained on.
        contract: what it is fed.
        threshold: an alarm is a score at or above it.
        metrics: figures on test images, with the counts they rest on.
        revision: of the code that made it.
        more: whatever else should be known; JSON's types only.
    """

    name: str
    data: Mapping[str, Any]
    contract: InputContract
    threshold: float
    metrics: Mapping[str, Any]
    revision: str
    more: Mapping[str, Any]


def write(model: Path, about: About, key: bytes, *, beside: Sequence[Path] = ()) -> Path:
    """Write the manifest of a model file beside it.

    Args:
        model: the exported file.
        about: what is said about it.
        key: seals it, see `key_from`.
        beside: further files that belong to the model, in the same folder.

    Raises:
        ManifestError: a file is missing or elsewhere, or the folder cannot be written.
    """
    if stray := [path for path in beside if path.parent != model.parent]:
        raise ManifestError(f"{stray[0]} is in another folder than {model.name}: put it beside the model.")
    try:
        listed = [{"file": path.name, "bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in (model, *beside)]
    except OSError as error:
        raise ManifestError(f"{error.filename} cannot be read ({error.strerror}): export the model first.") from None
    content: dict[str, Any] = {
        "format": FORMAT,
        **asdict(about),
        "files": listed,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "made_with": _versions(),
    }
    path = _path(model)
    text = json.dumps({**content, "seal": _seal(content, key)}, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        files.replace(path, f"{text}\n".encode())
    except OSError as error:
        raise ManifestError(files.sentence(error, path.parent, "the manifest", "name another folder")) from error
    return path


def verify(model: Path, key: bytes) -> dict[str, Any]:
    """The manifest of a model, if it is sealed with this key and every file is as it was.

    Raises:
        ManifestError: it is not.
    """
    path = _path(model)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"There is no manifest {path.name} beside {model}: do not use the model.") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read ({type(error).__name__}): do not use the model.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ManifestError(f"{path} is no manifest of format {FORMAT}: do not use the model.")
    seal = content.pop("seal", "")
    if not isinstance(seal, str) or not hmac.compare_digest(seal.encode(), _seal(content, key).encode()):
        raise ManifestError(f"{path} was not sealed with this key, or was changed since: do not use the model.")
    if model.name not in [entry["file"] for entry in content["files"]]:
        raise ManifestError(f"{path} is of another model than {model.name}: do not use it.")
    for entry in content["files"]:
        there = model.with_name(entry["file"])
        if not there.is_file() or files.sha256(there) != entry["sha256"]:
            raise ManifestError(f"{there} is missing, or is not the file that was sealed: do not use the model.")
    return content


def key_from(path: Path) -> bytes:
    """The key in a file, which is made where there is none, readable by its owner alone.

    Raises:
        ManifestError: others may read it, or it is no key, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                file.write(secrets.token_hex(_KEY_BYTES).encode())
        except FileExistsError:
            pass
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ManifestError(f"Others can read the key {path}: run `chmod 600 {path}`, or make another one.")
        key = bytes.fromhex(path.read_text("ascii"))
    except OSError as error:
        raise ManifestError(files.sentence(error, path.parent, "the key", "name another file for it")) from error
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise ManifestError(f"{path} is no key of {_KEY_BYTES} bytes in hex digits: remove it, and another one is made.")
    return key


def revision(folder: Path | None = None) -> str:
    """Which code this is: the image's revision in a lab, else the checksum of the library's sources."""
    folder = folder or Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"defectlab-{total.hexdigest()[:16]}{_commit(folder)}"


def _commit(folder: Path) -> str:
    """The commit of a checkout; '' elsewhere."""
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"+git-{done.stdout.strip()}"


def _path(model: Path) -> Path:
    return model.with_name(model.name + _ENDING)


def _seal(content: Mapping[str, Any], key: bytes) -> str:
    # Sorted and without blanks, so that the same facts have the same seal however they are laid out.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "onnx", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

"""A trained model as a file, with what it was trained on.

Owns the two files of a model: `NAME.pt` has the weights and the card, `NAME.json` the card alone, for people and programs that
do not load PyTorch. Never leaves half a file behind, and never runs code from a file it reads.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import platform
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from defectlab import files
from defectlab.model import Network, build

FORMAT = 1


class StoreError(Exception):
    """A model cannot be written or read; its text is one sentence for a person, with what to do."""


def file_name(user: str, name: str) -> str:
    """The name of a person's model, without its ending; different for different people, whatever they are called."""
    return f"{quote(user, safe='')}-{name}"


def save(model: Network, folder: Path, name: str, card: dict[str, Any]) -> Path:
    """Write a model and its card; a model of that name is replaced.

    Args:
        model: the trained model.
        folder: where models go.
        name: name of the model, see `file_name`.
        card: what whoever finds the file wants to know: data and its digest, metrics, threshold. JSON's types only.

    Returns:
        The file with the weights.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    card = {
        "format": FORMAT,
        "name": name,
        "network": model.recipe,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "made_with": {"torch": torch.__version__, "python": platform.python_version()},
        **card,
    }
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    content = io.BytesIO()
    torch.save({"card": json.dumps(card), "weights": weights}, content)
    path = folder / f"{name}.pt"
    whole = {**card, "file": path.name, "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.replace(path, content.getvalue())
        files.replace(path.with_suffix(".json"), (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise StoreError(files.sentence(error, folder, "the model", "set GPULAB_MODELS to another folder")) from error
    return path


def load(path: Path) -> tuple[Network, dict[str, Any]]:
    """Read a model and its card.

    Raises:
        StoreError: there is none, it is damaged, or it is no model of this library.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        card: dict[str, Any] = json.loads(content["card"])
        model = build(card["network"])
        model.load_state_dict(content["weights"])
    except FileNotFoundError:
        raise StoreError(f"There is no model {path}.") from None
    except Exception as error:
        # PyTorch raises a dozen kinds of error on a damaged file.
        raise StoreError(f"{path} cannot be read as a model of this library ({type(error).__name__}).") from error
    return model.eval(), card

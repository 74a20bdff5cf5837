"""A training that can go on where it was cut off.

Owns the file that holds everything a training needs to continue as if nothing had happened: weights, optimizer, learning rate,
scaler, random numbers. Never leaves half a file behind, never runs code from a file it reads, and never continues a training
with other settings or other data than it was begun with.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from defectlab import files

FORMAT = 1


class CheckpointError(Exception):
    """A training cannot be kept or continued; its text is one sentence for a person, with what to do."""


class Stateful(Protocol):
    """What can tell its state and take it back: modules, optimizers, schedules, scalers."""

    def state_dict(self) -> dict[str, Any]:
        """All that it is made of."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Become what `state_dict` told."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file, and the training it belongs to.

    Attributes:
        path: the file.
        identity: what must be the same for going on, such as settings and the digest of the data.
    """

    path: Path
    identity: str

    def save(self, parts: dict[str, Stateful], generator: torch.Generator, more: dict[str, Any]) -> None:
        """Replace the file by the state of now.

        Args:
            parts: everything with a state, by name.
            generator: the random numbers of the training.
            more: numbers, texts and tensors beside.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written.
        """
        content = io.BytesIO()
        states = {name: part.state_dict() for name, part in parts.items()}
        whole = {"format": FORMAT, "identity": self.identity, "states": states, "more": more}
        torch.save({**whole, "generator": generator.get_state(), "torch": torch.get_rng_state()}, content)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self.path, content.getvalue())
        except OSError as error:
            remedy = "name another file for it"
            raise CheckpointError(files.sentence(error, self.path.parent, "the checkpoint", remedy)) from error

    def resume(self, parts: dict[str, Stateful], generator: torch.Generator) -> dict[str, Any] | None:
        """Give every part the state it had; None where there is no file, so that the training begins.

        Returns:
            What was kept beside.

        Raises:
            CheckpointError: the file is damaged, or of another training.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:
            # PyTorch raises a dozen kinds of error on a damaged file.
            raise CheckpointError(
                f"{self.path} is damaged ({type(error).__name__}): remove it, and the training begins anew."
            ) from error
        if content.get("format") != FORMAT or content.get("identity") != self.identity:
            raise CheckpointError(
                f"{self.path} is of a training with other settings or other data: name another file, or remove it."
            )
        for name, part in parts.items():
            part.load_state_dict(content["states"][name])
        generator.set_state(content["generator"])
        torch.set_rng_state(content["torch"])
        found: dict[str, Any] = content["more"]
        return found

    def remove(self) -> None:
        """Drop the file of a training that has come to its end."""
        self.path.unlink(missing_ok=True)

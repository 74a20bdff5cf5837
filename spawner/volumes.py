"""Names of Docker objects, and which folder is mounted where.

Owns the slug (the only way a user or server name enters a Docker name) and the list of mounts. Never touches the
disk: whether a folder answers is probed by `probe`.
"""

from __future__ import annotations

import hashlib
import re

from spawner.model import Holder, LabConfig, Mount

HOME = "/home/engineer"
DATA = "/workspace/data"
MODELS = "/workspace/models"
_MAX = 24


def slug(text: str) -> str:
    """A name for Docker objects: always valid, never equal for two different inputs.

    A short text of `[a-z0-9]` stands for itself. Anything else keeps its readable part and gets `--` and 12 hex digits of
    its SHA-256; plain names cannot contain `-`, so the two kinds never meet.
    """
    if re.fullmatch(rf"[a-z0-9]{{1,{_MAX}}}", text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MAX].strip("-")
    return f"{readable or 'x'}--{digest}"


def container_name(lab: str, holder: Holder) -> str:
    """The container's name: one per holder, so that an engine refuses a second one."""
    base = f"{lab}-lab-{slug(holder.user)}"
    return f"{base}_{slug(holder.server)}" if holder.server else base


def home_volume(lab: str, user: str) -> str:
    """The volume of a person's home, shared by all their labs."""
    return f"{lab}-home-{slug(user)}"


def mounts(config: LabConfig, holder: Holder, *, data_writable: bool) -> tuple[Mount, ...]:
    """What a lab mounts: home, data sets (read-only unless granted) and models."""
    return (
        Mount(home_volume(config.name, holder.user), HOME, read_only=False),
        Mount(str(config.mounts.datasets), DATA, read_only=not data_writable),
        Mount(str(config.mounts.models), MODELS, read_only=False),
    )

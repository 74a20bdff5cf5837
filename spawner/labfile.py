"""Reads lab.yaml: text in, a frozen `LabConfig` out, or one `ConfigError` with file, line, rule and nearest name.

Owns loading, line numbers, the sentences of refusals and the two environment overrides (`GPULAB_ADDRESS`,
`GPULAB_PORT`). Never decides what a value may be (that is `schema`), never touches engine, ledger or hub.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from spawner import schema
from spawner.errors import ConfigError
from spawner.model import (
    GpuConfig,
    HubConfig,
    LabConfig,
    Limits,
    MountConfig,
    NetworkConfig,
    Profile,
    SimulatedGpu,
)

MAX_BYTES = 1 << 20
_Path = tuple[str | int, ...]


def load(path: str | Path, env: Mapping[str, str] | None = None) -> LabConfig:
    """Read and check lab.yaml.

    Args:
        path: the file; relative paths inside it are taken from its folder.
        env: environment with the overrides `GPULAB_ADDRESS` and `GPULAB_PORT`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or breaks a rule.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), 0, f"The file cannot be read ({error.strerror}).", _WHERE) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(str(path), 0, f"The file has {len(raw)} bytes; at most {MAX_BYTES} are read.")
    return parse(raw, str(path), file.resolve().parent, env or {})


def settings(path: str | Path) -> dict[str, str]:
    """What its author wrote in lab.yaml: key, with dots → value as JSON; no default is filled in.

    Raises:
        ConfigError: the file cannot be read or is not YAML.
    """
    try:
        data, _lines = _read_yaml(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(str(path), 0, f"The file cannot be read ({error.strerror}).", _WHERE) from None
    return dict(_flat(data, ()))


def _flat(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, (*keys, str(key)))
    elif keys:
        yield ".".join(keys), json.dumps(value, default=str, ensure_ascii=False)


_WHERE = "Give the path of lab.yaml in GPULAB_CONFIG, or run from the folder that has it."


def parse(raw: bytes, file: str, folder: Path, env: Mapping[str, str]) -> LabConfig:
    """Check the text of lab.yaml; `folder` is what relative paths start from.

    Raises:
        ConfigError: the text is not YAML or breaks a rule.
    """
    data, lines = _read_yaml(raw, file)
    hub = data.get("hub")
    if isinstance(hub, dict) or hub is None:
        data["hub"] = {**(hub or {}), **_overrides(env)}
    try:
        checked = schema.LabFile.model_validate(data)
    except ValidationError as error:
        raise _refusal(error, file, lines) from None
    _check_together(checked, file, lines)
    return _freeze(checked, file, folder)


def _overrides(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if address := env.get("GPULAB_ADDRESS"):
        found["address"] = address
    if port := env.get("GPULAB_PORT"):
        if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
            raise ConfigError("GPULAB_PORT", 0, f"A port is a number from 1 to 65535, not {port[:20]!r}.")
        found["port"] = int(port)
    return found


def _read_yaml(raw: bytes, file: str) -> tuple[dict[str, Any], dict[_Path, int]]:
    lines: dict[_Path, int] = {}
    try:
        loader = yaml.SafeLoader(raw.decode("utf-8"))
        node = loader.get_single_node()
        if node is not None:
            _note_lines(node, (), lines, file)
        data = loader.construct_document(node) if node is not None else {}
    except UnicodeDecodeError:
        raise ConfigError(file, 0, "The file is not UTF-8 text.", "Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigError(file, line, f"This is not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(file, 0, f"This is not YAML: {str(error)[:120]}.") from None
    if not isinstance(data, dict):
        raise ConfigError(file, 1, "lab.yaml must be a mapping of keys to values.", "Start from the shipped file.")
    return data, lines


def _note_lines(node: yaml.Node, path: _Path, lines: dict[_Path, int], file: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in lines:
                raise ConfigError(
                    file,
                    key.start_mark.line + 1,
                    f"The key {key.value!r} stands twice (first in line {lines[here]}).",
                    "Remove one of them.",
                )
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*path, index), lines, file)


def _refusal(error: ValidationError, file: str, lines: Mapping[_Path, int]) -> ConfigError:
    # A mistyped key is reported as unknown and as missing: the unknown one can name its neighbour.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    # A union or a dict key adds parts to `loc` that no line has: keep the longest known prefix.
    loc: _Path = tuple(part for part in first["loc"] if part != "[key]")
    known = loc
    while known and known not in lines:
        known = known[:-1]
    where = ".".join(str(part) for part in known) or "the file"
    line = lines.get(known, 0)
    kind = first["type"]
    if kind == "extra_forbidden":
        return _unknown_key(file, line, loc)
    if kind == "missing":
        return ConfigError(file, line, f"The key {'.'.join(map(str, loc))!r} is missing.", "Add it.")
    found = _short(first["input"])
    if "[key]" in first["loc"]:
        return ConfigError(file, line, f"{found} is not a valid name.", f"Names match {schema.KEY}.")
    rule = first["msg"].removeprefix("Value error, ")
    return ConfigError(file, line, f"{where} is {found}: {_lower_first(rule)}.", "Correct the value.")


def _unknown_key(file: str, line: int, loc: _Path) -> ConfigError:
    allowed = _allowed_keys(loc[:-1])
    wrong = str(loc[-1])
    near = difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    section = ".".join(map(str, loc[:-1])) or "the top level"
    return ConfigError(file, line, f"Unknown key {wrong!r} in {section}.", f"{hint}Allowed: {', '.join(sorted(allowed))}.")


def _allowed_keys(loc: _Path) -> list[str]:
    current: Any = schema.LabFile
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _inner_model(current.model_fields[str(part)].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in reversed(getattr(annotation, "__args__", ())):
        inner = _inner_model(argument)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return annotation


def _check_together(checked: schema.LabFile, file: str, lines: Mapping[_Path, int]) -> None:
    seen: dict[str, int] = {}
    for index, gpu in enumerate(checked.gpus.simulated):
        if gpu.uuid in seen:
            line = lines.get(("gpus", "simulated", index, "uuid"), 0)
            raise ConfigError(file, line, f"The GPU {gpu.uuid} stands twice.", "Give each GPU its own UUID.")
        seen[gpu.uuid] = index
    if checked.gpus.source == "simulated" and not checked.gpus.simulated:
        line = lines.get(("gpus", "source"), 0)
        raise ConfigError(file, line, "gpus.source is 'simulated' but no GPU is listed.", "List at least one.")
    for key in checked.policy.profiles:
        if key not in checked.profiles:
            line = lines.get(("policy", "profiles", key), 0)
            near = difflib.get_close_matches(key, checked.profiles, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Profiles: {', '.join(checked.profiles)}."
            raise ConfigError(file, line, f"policy.profiles names {key!r}, which is no profile.", hint)
    for index, rule in enumerate(checked.gpus.sharing):
        if not rule.gpus and not rule.models:
            line = lines.get(("gpus", "sharing", index), 0)
            raise ConfigError(file, line, "This entry of gpus.sharing names no GPU.", "Name UUIDs under gpus, or models.")
    _check_profiles(checked, file, lines)


def _check_profiles(checked: schema.LabFile, file: str, lines: Mapping[_Path, int]) -> None:
    for key, profile in checked.profiles.items():
        if profile.gpu_models and not profile.gpus:
            line = lines.get(("profiles", key, "gpu_models"), 0)
            raise ConfigError(
                file,
                line,
                f"Profile {key!r} names GPU models but asks for no GPU.",
                "Set gpus or remove gpu_models.",
            )


def _freeze(checked: schema.LabFile, file: str, folder: Path) -> LabConfig:
    mounts, limits = checked.mounts, checked.limits
    return LabConfig(
        file=file,
        name=checked.name,
        image=checked.image,
        state=folder / checked.state,
        hub=HubConfig(checked.hub.address, checked.hub.port),
        network=NetworkConfig(checked.network.name, checked.network.hub_port),
        sign_in=checked.sign_in.method,
        gpus=GpuConfig(
            checked.gpus.source,
            tuple(SimulatedGpu(g.uuid, g.model, g.memory) for g in checked.gpus.simulated),
            tuple(rule.frozen() for rule in checked.gpus.sharing),
        ),
        mounts=MountConfig(
            datasets=folder / mounts.datasets.path,
            models=folder / mounts.models.path,
            dataset_writers=frozenset(mounts.datasets.writers.users),
            dataset_writer_groups=frozenset(mounts.datasets.writers.groups),
            probe_seconds=float(mounts.probe_seconds),
        ),
        limits=Limits(**limits.model_dump()),
        profiles={
            key: Profile(
                key=key,
                title=p.title,
                description=p.description,
                gpus=p.gpus,
                gpu_models=tuple(p.gpu_models),
                cpus=float(p.cpus),
                memory=p.memory,
                shm=p.shm,
                pids=p.pids,
                gpu_memory_mib=(p.gpu_memory or 0) >> 20,
                sharing=p.sharing,
                image=p.image or "",
            )
            for key, p in checked.profiles.items()
        },
        policy=checked.policy.frozen(),
        line=checked.line.frozen(),
        reclaim=checked.reclaim.frozen(),
        board=checked.board.frozen(),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text else text

"""The documentation, compared with what it speaks of: keys, commands, targets, errors, links, numbers, versions."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from xml.etree import ElementTree

import pytest
import yaml
from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import spawner
from spawner import auth, datasets, doctor, errors, labfile, model, probe, records, schema, schema_rules
from spawner.cli import build_parser
from spawner.commands import token
from spawner.services import settler
from tests.test_architecture import FLOORS

REPO = Path(__file__).parents[1]


@cache
def tracked() -> tuple[str, ...]:
    """Files of the repository: committed, or about to be."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(sorted(name for name in listed.stdout.split("\0") if name and (REPO / name).is_file()))


@cache
def read(name: str) -> str:
    return (REPO / name).read_text("utf-8")


PAGES = tuple(name for name in tracked() if name.endswith(".md"))
MANUAL = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/lab-yaml.md", "docs/rest.md", "docs/architecture.md")


# --- reading Markdown


def rows(page: str, *titles: str) -> list[dict[str, str]]:
    """The rows of every table of a page that has these column titles."""
    found: list[dict[str, str]] = []
    header: list[str] = []
    for line in read(page).splitlines():
        if not line.lstrip().startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif set(titles) <= set(header) and not set(line) <= set("|-: "):
            found.append(dict(zip(header, cells, strict=True)))
    return found


def spans(text: str) -> list[str]:
    """Inline code."""
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", outside)


def blocks(text: str, language: str) -> list[str]:
    """Fenced code of a language, also inside a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(body) for _, body in found]


def typed(text: str) -> Iterator[list[str]]:
    """Every command a reader may type, as words: in code spans, in indented code and in fenced shell code."""
    lines = [*spans(text), *re.findall(r"^(?: {4}|\t)+(.*)$", text, flags=re.MULTILINE)]
    lines += [line for block in blocks(text, "bash") for line in block.splitlines()]
    for line in lines:
        for command in re.split(r"&&|;", line):
            try:
                words = shlex.split(command, comments=True)
            except ValueError:
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "sudo"):
                words.pop(0)
            if words:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def anchors(page: str) -> set[str]:
    """Anchors of a page's headings, as the usual hosting makes them."""
    outside = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.*)$", outside, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- lab.yaml


def keys(section: type[BaseModel] = schema.LabFile, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of lab.yaml that holds a value, with its rule."""
    for name, field in section.model_fields.items():
        inner, ending = _inner(field.annotation)
        here = path + name
        if ending != ".KEY" and (inner is None or ending == "[]"):
            yield here, field
        if inner is not None:
            yield from keys(inner, f"{here}{ending}.")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, ""
    models = [arg for arg in get_args(annotation) if inspect.isclass(arg) and issubclass(arg, BaseModel)]
    if not models:
        return None, ""
    return models[0], ".KEY" if get_origin(annotation) is dict else "[]"


KEYS = dict(keys())
DOCUMENTED = {spans(row["key"])[0]: row for row in rows("docs/lab-yaml.md", "key", "default", "allowed", "meaning")}


def is_size(field: FieldInfo) -> bool:
    return any(getattr(rule, "func", None) is schema.parse_size for rule in field.metadata)


def is_duration(field: FieldInfo) -> bool:
    return any(getattr(rule, "func", None) is schema_rules.parse_duration for rule in field.metadata)


def allowed(field: FieldInfo) -> str:
    """What a value may be, in the words of the table; '' where a pattern says it."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.annotation))
    bounds = {type(rule): rule for rule in field.metadata}
    if MaxLen in bounds:
        most = bounds[MaxLen].max_length
        if get_origin(field.annotation) is list:
            return f"up to {most} entries"
        return f"{bounds[MinLen].min_length} to {most} characters" if MinLen in bounds else f"up to {most} characters"
    if Le not in bounds:
        return ""
    if is_size(field):
        return f"{bounds[Ge].ge >> 20}m to {bounds[Le].le >> 40}t"
    if is_duration(field):
        return f"{bounds[Ge].ge}s to {bounds[Le].le // 86400}d"
    return f"more than {bounds[Gt].gt}, up to {bounds[Le].le}" if Gt in bounds else f"{bounds[Ge].ge} to {bounds[Le].le}"


def test_every_key_of_lab_yaml_is_documented_and_no_other():
    assert set(DOCUMENTED) == set(KEYS)
    assert len(KEYS) > 30


@pytest.mark.parametrize("key", sorted(KEYS))
def test_default_bounds_and_meaning_of_a_key(key: str):
    field, row = KEYS[key], DOCUMENTED.get(key)
    assert row, "undocumented"
    if field.is_required():
        assert row["default"] == "*required*"
    else:
        told = yaml.safe_load(row["default"].strip("`"))
        read_as = schema.parse_size if is_size(field) else schema_rules.parse_duration if is_duration(field) else None
        assert (read_as(told) if read_as and told is not None else told) == field.default
    assert row["allowed"].startswith(allowed(field))
    assert row["allowed"]
    assert len(row["meaning"]) > 10


@pytest.mark.parametrize("page", PAGES)
def test_yaml_examples_are_right(page: str):
    for block in blocks(read(page), "yaml"):
        whole = yaml.safe_load(read("lab.yaml")) | yaml.safe_load(block)
        labfile.parse(yaml.safe_dump(whole).encode(), page, REPO, {})


KEYED = ("profiles", "policy.groups", "policy.users", "policy.profiles")


def test_every_key_stands_in_an_example():
    shown: set[str] = set()

    def walk(value: object, path: str) -> None:
        shown.add(path)
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f"{path}.{'KEY' if path in KEYED else name}".lstrip("."))
        elif isinstance(value, list):
            for inner in value:
                walk(inner, f"{path}[]")

    for block in blocks(read("docs/lab-yaml.md"), "yaml"):
        walk(yaml.safe_load(block), "")
    assert set(KEYS) <= shown


def test_profiles_of_the_shipped_file_are_shown():
    shipped = yaml.safe_load(read("lab.yaml"))["profiles"]
    told = {
        spans(row["profile"])[0]: {title: row[title] for title in ("title", "GPUs", "CPUs", "memory", "shm", "pids")}
        for row in rows("docs/lab-yaml.md", "profile", "GPUs", "pids")
    }
    assert told == {
        key: {
            "title": profile["title"],
            "GPUs": str(profile["gpus"]),
            "CPUs": str(profile["cpus"]),
            **{name: str(profile[name]) for name in ("memory", "shm", "pids")},
        }
        for key, profile in shipped.items()
    }
    assert set(shipped) <= set(spans(read("README.md")))


def test_example_of_a_refusal_is_what_the_lab_says():
    wrong = read("lab.yaml").replace("    title: CPU\n", "    title_: CPU\n")
    with pytest.raises(errors.ConfigError) as refused:
        labfile.parse(wrong.encode(), "lab.yaml", REPO, {})
    (told,) = re.findall(r"^    gpulab: (lab\.yaml:.*), …$", read("docs/lab-yaml.md"), flags=re.MULTILINE)
    assert re.sub(r"\d+", "N", refused.value.message).startswith(re.sub(r"\d+", "N", told))


# --- commands and targets


def commands(parser: argparse.ArgumentParser, path: str = "gpulab") -> Iterator[tuple[str, set[str]]]:
    """Every command that does something, with its options; the bare program with those for all."""
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")} - {"--help"}
    below = subcommands(parser)
    if not below or path == "gpulab":
        yield path, options
    for name, inner in below.items():
        yield from commands(inner, f"{path} {name}")


def subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", read("Makefile"), flags=re.MULTILINE))


@pytest.mark.parametrize(("command", "options"), sorted(commands(build_parser())))
def test_command_and_its_options_stand_in_the_readme(command: str, options: set[str]):
    told = [row["command"].strip("`") for row in rows("README.md", "command", "what it does")]
    rest = [line.removeprefix(command) for line in told if re.match(rf"{command}(?= [^a-z]|$)", line)]
    assert len(rest) == 1, f"{command} has no row of its own"
    assert set(re.findall(r"--[a-z-]+", rest[0])) == options


def test_every_target_stands_in_the_readme_and_no_other():
    told = [row["command"].strip("`") for row in rows("README.md", "command", "what it does")]
    assert {line.removeprefix("make").strip() for line in told if line.startswith("make")} == targets() - {"help"} | {""}


def judge_gpulab(words: list[str]) -> None:
    """Follow the words through the grammar as far as they are words and not values."""
    parser = build_parser()
    words = [word.strip("[]") for word in words]
    while words:
        word = words.pop(0)
        known = {option: action for action in parser._actions for option in action.option_strings}
        if word.startswith("--"):
            name, _, value = word.partition("=")
            assert name in known, f"no option {name}"
            if known[name].nargs is None and not value and words:
                words.pop(0)
        elif below := subcommands(parser):
            if word == "…":
                return
            assert word in below, f"no command {word!r}"
            parser = below[word]


def judge_make(words: list[str]) -> None:
    code = "".join(read(name) for name in tracked() if name == "Makefile" or name.startswith("scripts/"))
    for word in words:
        name, equals, _ = word.partition("=")
        if equals:
            assert re.search(rf"\b{name}\b", code), f"no variable {name}"
        else:
            assert word in targets(), f"no target {word}"


JUDGES = {"gpulab": judge_gpulab, "make": judge_make}


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page: str):
    for program, *words in typed(read(page)):
        if program in JUDGES:
            JUDGES[program](words)


def test_commands_that_the_code_advises_exist():
    for name in tracked():
        if name.startswith(("spawner/", "scripts/", "images/")) and not name.endswith((".lock", ".svg")):
            for command in re.findall(r"`((?:gpulab|make)(?: [^`\n]+)?)`", read(name)):
                program, *words = command.replace("...", "").split()
                JUDGES[program]([word for word in words if "{" not in word])


# --- environment variables


INTERNAL = {"GPULAB_LOCKED", "GPULAB_STATE"}  # between our own scripts
VARIABLE = re.compile(r"\bGPULAB_[A-Z_]+\b")


def test_environment_variables_are_documented_and_exist():
    told = {name for page in MANUAL for name in VARIABLE.findall(read(page))}
    told |= set(VARIABLE.findall(read("docs/troubleshooting.md")))
    shipped = ("spawner/", "scripts/", "images/", "notebooks/", "bench/", "Makefile", "jupyterhub_config.py")
    asked = {
        name
        for file in tracked()
        if file.startswith(shipped) and not file.endswith(".md")
        for name in VARIABLE.findall(read(file))
    }
    tested = {
        name for file in tracked() if file.startswith("tests/") and file.endswith(".py") for name in VARIABLE.findall(read(file))
    }
    assert asked - INTERNAL <= told, "undocumented"
    assert told <= asked | tested, "no such variable"


# --- links, paths and names


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    outside = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", outside):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (REPO / page).parent / path if path else REPO / page
        assert file.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(REPO))), f"{target} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_pictures_have_a_text_for_those_who_do_not_see_them(page: str):
    for text in re.findall(r"!\[([^\]]*)\]\(", read(page)):
        assert len(text) > 20


# Template of a page → its pictures. `page` is what the others are made of.
PICTURES = {
    "404": {"not-found"},
    "admin": {"admin"},
    "audit": {"journal"},
    "error": {"error"},
    "gpus": {"board", "board-engineer", "board-end", "board-phone"},
    "home": {"home", "warning", "warning-phone", "lost"},
    "line": {"line", "line-phone"},
    "login": {"login"},
    "not_running": {"not-running"},
    "spawn": {"profiles", "profiles-phone", "ending"},
    "spawn_pending": {"progress"},
    "stop_pending": {"stopping"},
    "token": {"tokens"},
    "usage": {"usage", "usage-phone"},
}
OF_OTHERS = {"lab", "jupyterlab-warning", "threshold", "labelling", "training"}  # JupyterLab's own


def test_every_page_has_a_picture_that_a_document_shows_and_a_test_takes():
    templates = {Path(name).stem for name in tracked() if re.fullmatch(r"spawner/pages/templates/\w+\.html", name)}
    drawn = {
        name
        for file in tracked()
        if file.startswith("spawner/") and file.endswith(".py")
        for name in re.findall(r'render_template\(\s*"(\w+)\.html"', read(file))
    }
    assert drawn <= templates - {"page"} == set(PICTURES)
    pictures = OF_OTHERS.union(*PICTURES.values())
    assert {Path(name).stem for name in tracked() if name.startswith("docs/screenshots/")} == pictures
    shown = {name for page in PAGES for name in re.findall(r"\]\((?:docs/)?screenshots/([\w-]+)\.png\)", read(page))}
    assert shown == pictures
    taken = "".join(read(name) for name in tracked() if name.startswith("tests/browser/"))
    assert all(f'"{name}"' in taken for name in pictures)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str):
    tops = {name.split("/")[0] for name in tracked() if "/" in name}
    tests = {
        name
        for file in tracked()
        if file.startswith("tests/") and file.endswith(".py")
        for name in re.findall(r"def (test_\w+)", read(file))
    }
    for span in spans(read(page)):
        if re.fullmatch(r"test_\w+", span):
            assert span in tests | {Path(file).stem for file in tracked()}, f"no test {span}"
        elif re.fullmatch(r"\d\d_\w+\.(ipynb|py)", span):
            assert f"notebooks/{span}" in tracked(), f"no notebook {span}"
        elif re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+", span) and span.split("/")[0] in tops and "NN_" not in span:
            assert list(REPO.glob(span)), f"no file {span}"


def test_architecture_names_the_floors_of_the_house():
    told = {int(row["floor"]): set(row["modules of `spawner/`"].split(", ")) for row in rows("docs/architecture.md", "floor")}
    assert told == dict(enumerate(FLOORS))


def test_architecture_names_the_states_of_a_lease():
    told = [row["state"].strip("*") for row in rows("docs/architecture.md", "state", "meaning")]
    assert told == [state.value for state in model.LeaseState]


def test_architecture_names_the_states_of_a_ticket():
    told = [row["ticket"].strip("*") for row in rows("docs/architecture.md", "ticket", "meaning")]
    assert told == [state.value for state in records.TicketState]


def test_architecture_is_a_picture_with_words():
    picture = ElementTree.fromstring(read("docs/architecture.svg"))
    told = {child.tag.rpartition("}")[2]: "".join(child.itertext()) for child in picture}
    assert len(told["title"]) > 10
    assert len(told["desc"]) > 100
    assert "prefers-color-scheme: dark" in told["style"]


# --- errors


# These never leave through the REST API: the hub does not start, or the command line says them.
NOT_OVER_REST = {errors.ConfigError, errors.VaultError, errors.DatasetError}


def test_status_codes_are_those_of_the_error_tree():
    tree = {thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, errors.LabError)}
    leaves = {error for error in tree if not any(other is not error and issubclass(other, error) for other in tree)}
    told = {(int(row["status"]), row["reason"].strip("`")) for row in rows("docs/rest.md", "status", "reason", "when")}
    assert told == {(error.status_code, error.reason) for error in leaves - NOT_OVER_REST}
    first = {int(row["status"]) for row in rows("docs/rest.md", "status", "from a start, a stop or a question")}
    assert {status for status, _ in told} <= first


FOREIGN = {"Failed to initialize NVML: Unknown Error", "Permission denied"}


@cache
def words_of_the_code() -> str:
    """All text that the code can say, with a mark where a value is filled in."""
    said: list[str] = []
    for name in tracked():
        if name.startswith("spawner/") and name.endswith(".py"):
            for node in ast.walk(ast.parse(read(name))):
                if isinstance(node, ast.JoinedStr):
                    said.append("".join(str(part.value) if isinstance(part, ast.Constant) else "\1" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    said.append(node.value)
        elif name.startswith("scripts/") or name == "images/pytorch/start":
            # Adjacent literals of Python are one text.
            said.append(re.sub(r'"\s+f?"', "", read(name)))
    return "\0".join(said)


def test_symptoms_are_what_the_code_says():
    quoted = [span for row in rows("docs/troubleshooting.md", "symptom") for span in spans(row["symptom"])]
    ours = [span for span in quoted if span[:1].isupper() or "…" in span]
    assert len(ours) > 40
    for span in ours:
        for piece in span.split("…"):
            assert span in FOREIGN or piece.strip() in words_of_the_code(), f"nothing says {piece!r}"


# --- numbers, versions, hygiene


def facts() -> Iterator[tuple[str, str]]:
    profiles = schema.LabFile.model_fields["profiles"]
    most_profiles = next(rule.max_length for rule in profiles.metadata if isinstance(rule, MaxLen))
    lab = yaml.safe_load(read("lab.yaml"))
    yield "README.md", f"http://{lab['hub']['address']}:{lab['hub']['port']} by default"
    yield "README.md", f"default {token.DEFAULT_EXPIRY}, at most {auth.MAX_TOKEN_SECONDS // auth.DAY}d"
    yield "README.md", {"1d": "one browser login, within a day"}[token.DEFAULT_ONE_TIME_EXPIRY]
    yield "README.md", f"nvidia-container-toolkit {'.'.join(map(str, doctor.TOOLKIT_FLOOR))} or newer"
    yield "README.md", f"uid and gid {lab['limits']['uid']} (`limits.uid`, `limits.gid`)"
    yield "README.md", f"ELPV ({datasets.ELPV_IMAGES:,} images of solar cells), is licensed {datasets.ELPV_LICENCE}"
    yield "README.md", f"{lab['hub']['port']} (`hub.port`)"
    yield "README.md", f"{lab['hub']['port'] + 1} (the one after it)"
    yield "README.md", f"{lab['network']['hub_port']} (`network.hub_port`)"
    yield "SECURITY.md", f"({auth.MAX_TOKEN_SECONDS // auth.DAY} days at most)"
    yield "docs/troubleshooting.md", f"or {auth.SESSION_DAYS} days have passed"
    yield "docs/troubleshooting.md", f"Less than {probe.SPACE_FLOOR >> 20} MB are free"
    yield "docs/architecture.md", {5.0: "compares ledger and engine every five seconds"}[settler.PERIOD_SECONDS]
    yield "docs/lab-yaml.md", {1 << 20: "has at most 1 MiB"}[labfile.MAX_BYTES]
    yield "docs/lab-yaml.md", f"at least one, at most {most_profiles}"
    yield "docs/rest.md", f'"expires_in": {auth.DEFAULT_TOKEN_SECONDS}'
    yield (
        "docs/architecture.md",
        Path(labfile.load(REPO / "lab.yaml").ledger_url.removeprefix("sqlite:///")).relative_to(REPO).as_posix(),
    )


@pytest.mark.parametrize(("page", "words"), list(facts()))
def test_numbers_are_those_of_the_code(page: str, words: str):
    assert words in " ".join(read(page).split())


def test_versions_agree():
    (package,) = re.findall(r'^version = "(.+)"$', read("pyproject.toml"), flags=re.MULTILINE)
    newest = re.findall(r"^## \[(\d[^\]]*)\]", read("CHANGELOG.md"), flags=re.MULTILINE)[0]
    assert spawner.__version__ == package == newest


def test_licence_is_the_one_that_the_package_names():
    assert 'license = "BSD-3-Clause"' in read("pyproject.toml")
    assert read("LICENSE").startswith("BSD 3-Clause License\n\nCopyright (c) 2026, GPU Lab contributors\n")


# Written in pieces, so that this file does not hold what it looks for.
HOSTS = (
    "pypi." + "org",
    "files.python" + "hosted.org",
    "registry.npm" + "js.org",
    "deb.debian" + ".org",
    "archive.ubuntu" + ".com",
)
PYTORCH = "download.pytorch" + ".org"
MACHINE = re.compile("/wor" + r"k/(main|shared|\.)|/tmp/(team|re" + r"f)\b|/far" + "m/")


def test_no_registry_and_no_path_of_a_machine_is_in_the_repository():
    for name in tracked():
        content = (REPO / name).read_bytes().decode("utf-8", "replace")
        for host in HOSTS:
            assert host not in content, f"{name} names the registry {host}"
        if PYTORCH in content:
            assert name in ("scripts/images.py", "scripts/lock.sh"), f"{name} names {PYTORCH}"
        found = MACHINE.search(content)
        assert not found, f"{name} has the path {found[0] if found else ''}"

"""The table of the house, checked against the code: who may import whom, and which library has which owner."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "spawner"

# Floors of the house, from the ground up. A module imports from floors below its own, never beside or above.
FLOORS: list[set[str]] = [
    {"errors", "grants"},
    {"model"},
    {"records", "schema_rules"},
    {"decay", "sharing", "usage", "health", "reclaim", "told"},
    {
        "schema",
        "options",
        "policy",
        "placement",
        "line",
        "expect",
        "metering",
        "periods",
        "present_events",
        "sheets",
        "seats",
        "profiles",
        "volumes",
        "vault",
        "probe",
        "lanes",
        "answering",
        "datasets",
    },
    {"container", "hostconfig", "labfile", "evidence"},
    {"inventory", "ledger", "engine"},
    {"settlement", "asking", "glance"},
    {"runtime", "vitals"},
    {"endings"},
    {"pages", "auth"},
    {"present", "metrics"},
    {"refusals"},
    {"gpu_spawner", "services", "hub_api"},
    {"config"},
    {"doctor"},
    {"commands"},
    {"cli"},
]
# Inside a package, and between these, siblings may see each other.
PACKAGES = {"datasets", "inventory", "ledger", "pages", "auth", "services", "commands"}

OWNERS = {
    "docker": {"engine"},
    "sqlalchemy": {"ledger"},
    "pynvml": {"inventory"},
    "jupyterhub": {"answering", "refusals", "gpu_spawner", "config", "auth", "pages", "services"},
    "dockerspawner": {"gpu_spawner"},
    "oauthenticator": {"auth"},
    "pydantic": {"schema", "schema_rules", "labfile"},
    "yaml": {"labfile", "pages"},
    "jinja2": {"pages"},
    "prometheus_client": {"metrics"},
    "tornado": {"auth", "pages", "services"},
}
# Pure modules do no I/O: these standard modules may not appear in them.
PURE = {
    "errors",
    "grants",
    "model",
    "records",
    "evidence",
    "schema",
    "schema_rules",
    "options",
    "policy",
    "placement",
    "decay",
    "sharing",
    "health",
    "reclaim",
    "seats",
    "told",
    "line",
    "expect",
    "metering",
    "periods",
    "present_events",
    "sheets",
    "usage",
    "profiles",
    "volumes",
    "container",
    "hostconfig",
    "settlement",
}
IMPURE = {"os", "io", "subprocess", "socket", "sqlite3", "time", "random", "secrets", "requests", "threading"}


def modules() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__" or path.parent != PACKAGE:
            found.setdefault(name, []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Full dotted names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def inner(names: set[str], known: set[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {p[1] for p in parts if p[0] == "spawner" and len(p) > 1 and p[1] in known}


FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ALL = modules()


def test_every_module_has_a_floor():
    assert set(ALL) == set(FLOOR_OF) & set(ALL), f"no floor for {set(ALL) - set(FLOOR_OF)}"
    assert not set(FLOOR_OF) - set(ALL), f"no module for {set(FLOOR_OF) - set(ALL)}"


@pytest.mark.parametrize("name", sorted(ALL))
def test_imports_go_downwards(name: str):
    for path in ALL[name]:
        for target in inner(imports(path), set(ALL)):
            if target == name and name in PACKAGES:
                continue
            assert FLOOR_OF[target] < FLOOR_OF[name], f"{path.name} imports {target}, which is not below {name}"


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_library_has_one_owner(name: str):
    for path in ALL[name]:
        for full in imports(path):
            library = full.split(".")[0]
            if library in OWNERS:
                assert name in OWNERS[library], f"{path.name} imports {library}, owned by {OWNERS[library]}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_no_io(name: str):
    for path in ALL[name]:
        used = {full.split(".")[0] for full in imports(path)}
        assert not used & IMPURE, f"{path.name} is pure but imports {used & IMPURE}"
        assert not re.search(r"\b(datetime\.now|utcnow|open\()", path.read_text())


@pytest.mark.parametrize("folder", ["images", "notebooks", "ansible"])
def test_shipped_folders_import_nothing_of_the_package(folder: str):
    for path in (REPO / folder).rglob("*.py"):
        assert not {n for n in imports(path) if n.split(".")[0] == "spawner"}, path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_fit_in_a_readers_head(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 330, "a module has about 300 lines at most"
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (len(documented.splitlines()) if documented else 0)
            assert length <= 50, f"{node.name} has {length} lines of code"
    if path.name != "__init__.py":
        first = (ast.get_docstring(tree) or "").lower()
        assert "own" in first, "the first paragraph of a module says what it owns"
        assert "never" in first, "... and what it never does"


def test_words_of_the_house():
    for path in PACKAGE.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.search(r"\b(allocat\w*|reservation\w*|slot)\b", line, re.IGNORECASE)
            assert not found, f"{path.name}:{number} says {found[0]!r}; the house word is request, ticket or lease"

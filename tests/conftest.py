"""Fixtures of all suites.

    engine     the default Docker engine; a suite that needs it fails, with what to do, where there is none
    lab_files  a folder with a lab.yaml of its own: unique names, free ports, own data folders
    lab        a real hub process on that folder, on the real engine; everything it made is removed afterwards, and a traceback
               in its log or a process that it left fails the test

On failure, the hub's last log lines and the state and logs of its containers are printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from spawner.engine import Engine
from spawner.errors import EngineError
from tests.support.hub import HubProcess, LabFiles, make_lab_files, remove_docker_objects, running_hub, sweep

# A shared two-core machine makes single examples slow now and then; that is no failure of the code under test.
settings.register_profile("lab", deadline=None, print_blob=True)
settings.load_profile("lab")

OUTCOME = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[OUTCOME] = True
        module = item.getparent(pytest.Module)
        if module is not None:
            module.stash[OUTCOME] = True
    return report


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    found = Engine()
    try:
        found.facts()
    except EngineError as error:
        pytest.fail(f"{error} The tests need a Docker engine: run `make setup`.")
    sweep(found)
    yield found
    found.close()


@pytest.fixture
def lab_files(tmp_path: Path, engine: Engine) -> Iterator[LabFiles]:
    files = make_lab_files(tmp_path)
    try:
        yield files
    finally:
        remove_docker_objects(engine, files.name)


@pytest.fixture
def lab(lab_files: LabFiles, engine: Engine, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    with running_hub(lab_files, engine, lambda: request.node.stash.get(OUTCOME, False)) as hub:
        yield hub


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory, engine: Engine, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    """One hub for all tests of a module that leave it as they found it."""
    files = make_lab_files(tmp_path_factory.mktemp("lab"))
    try:
        with running_hub(files, engine, lambda: request.node.stash.get(OUTCOME, False)) as hub:
            yield hub
    finally:
        remove_docker_objects(engine, files.name)

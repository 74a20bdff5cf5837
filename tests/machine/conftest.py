"""Says which seed a run of the state machine had and how many steps it took; databases for ledgers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.machine.postgres import running_postgres

SEED_VARIABLE = "GPULAB_MACHINE_SEED"
STEPS_VARIABLE = "GPULAB_MACHINE_STEPS"
SEED = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**31))
COUNTED = {"steps": 0}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTED["steps"]:
        terminalreporter.write_line(f"state machine: {COUNTED['steps']} steps; again with {SEED_VARIABLE}={SEED}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def empty_postgres(postgres: str) -> str:
    """URL of a PostgreSQL database without a ledger."""
    host = postgres.partition("host=")[2]
    with psycopg.connect(host=host, user="lab", dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind that a ledger may live in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    return str(request.getfixturevalue("empty_postgres"))

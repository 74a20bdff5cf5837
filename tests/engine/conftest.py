"""Fixtures of the engine suite: the private engines, and a lab on each.

    cdi_engine, legacy_engine, nvidia_runtime_engine   see tests/support
    cdi_lab, legacy_lab, runtime_lab                   a lab on that engine
    gpu_lab                                            cdi_lab, then legacy_lab: the test runs on both request paths

On failure, containers, their logs and dockerd's last lines are printed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.conftest import OUTCOME
from tests.engine.lab import EngineLab
from tests.support.legacy_engine import legacy_engine, nvidia_runtime_engine
from tests.support.modern_engine import cdi_engine
from tests.support.private_engine import PrivateEngine

__all__ = ["cdi_engine", "legacy_engine", "nvidia_runtime_engine"]


@pytest.fixture
def cdi_lab(cdi_engine: PrivateEngine, request: pytest.FixtureRequest) -> Iterator[EngineLab]:
    yield from _lab(cdi_engine, request)


@pytest.fixture
def legacy_lab(legacy_engine: PrivateEngine, request: pytest.FixtureRequest) -> Iterator[EngineLab]:
    yield from _lab(legacy_engine, request)


@pytest.fixture
def runtime_lab(nvidia_runtime_engine: PrivateEngine, request: pytest.FixtureRequest) -> Iterator[EngineLab]:
    yield from _lab(nvidia_runtime_engine, request)


@pytest.fixture(params=["cdi_lab", "legacy_lab"], ids=["cdi", "legacy"])
def gpu_lab(request: pytest.FixtureRequest) -> EngineLab:
    lab: EngineLab = request.getfixturevalue(request.param)
    return lab


def _lab(private: PrivateEngine, request: pytest.FixtureRequest) -> Iterator[EngineLab]:
    lab = EngineLab(private, f"gpulab-test-{secrets.token_hex(3)}")
    try:
        yield lab
        if request.node.stash.get(OUTCOME, False):
            private.print_evidence()
    finally:
        lab.close()

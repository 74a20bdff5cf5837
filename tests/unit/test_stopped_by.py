"""The journal says who stopped a lab, and named labs are as many as policy grants."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spawner.auth.space_guard import StopsByName
from spawner.config import named_servers
from spawner.gpu_spawner import GpuSpawner
from spawner.grants import UNLIMITED, Allowance, PolicyRules
from spawner.ledger import Ledger
from spawner.model import GpuRequest, Holder, Presence
from spawner.placement import packed
from spawner.records import Grant
from spawner.runtime import Lab
from tests.unit.values import T0, make_gpu, shipped_config

HOLDER = Holder("ana")


class Engine:
    """Its labs run on."""

    def presence(self, _lease_id: str) -> Presence:
        return Presence.RUNNING

    def remove(self, _lease_id: str, _seconds: int) -> None:
        return None


@pytest.fixture
def lab(tmp_path: Path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.acquire(
        GpuRequest("p", 1), HOLDER, [make_gpu(0)], lease_id="a" * 32, now=T0,
        admit=lambda asked, _holder, _standing: Grant(asked), choose=packed,
    )  # fmt: skip
    yield Lab(shipped_config(), ledger, Engine(), None, lambda: T0)  # type: ignore[arg-type]
    ledger.close()


def drained_by(lab: Lab) -> list[str]:
    return [event.actor for event in lab.ledger.events(actions=["lease.draining"])]


def test_a_stop_is_in_the_journal_with_who_asked_for_it(lab: Lab):
    async def in_lane(function: Any, *args: Any) -> Any:
        return function(*args)

    spawner = SimpleNamespace(lab=lab, lease_id="a" * 32, stopped_by="root", _in_lane=in_lane)
    asyncio.run(GpuSpawner.stop(spawner))  # type: ignore[arg-type]
    assert drained_by(lab) == ["root"]


def test_a_stop_that_is_left_to_settlement_keeps_the_name(lab: Lab):
    lab.settle_holder(HOLDER, "root")
    lab.settle_holder(HOLDER)
    assert drained_by(lab) == ["root"]


class Hub:
    async def stop_single_user(self, user: Any, server_name: str) -> str:
        return user.spawners[server_name].stopped_by


class Handler(StopsByName, Hub):
    def __init__(self, kind: str, name: str) -> None:
        self.current_user = SimpleNamespace(kind=kind, name=name)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("user", "ana", "ana"), ("user", "root", "root"), ("service", "gpulab-reclaim", "lab"), ("service", "cull", "cull")],
)
def test_who_stops_a_lab_is_handed_on(kind: str, name: str, expected: str):
    spawner = SimpleNamespace(pending=None, stopped_by="lab")
    user = SimpleNamespace(spawners={"b": spawner})
    assert asyncio.run(Handler(kind, name).stop_single_user(user, "b")) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (PolicyRules(), 10),
        (PolicyRules(everyone=Allowance(labs_at_once=1)), 5),
        (PolicyRules(users={"ana": Allowance(labs_at_once=7)}), 35),
        (PolicyRules(groups={"vision": Allowance(labs_at_once=3)}, users={"ana": Allowance(labs_at_once=1)}), 15),
        (PolicyRules(everyone=Allowance(labs_at_once=0)), 5),
        (PolicyRules(groups={"vision": Allowance(labs_at_once=UNLIMITED)}), 0),
    ],
)
def test_named_labs_are_as_many_as_policy_needs(rules: PolicyRules, expected: int):
    config = shipped_config()
    limits = dataclasses.replace(config.limits, servers_per_user=2)
    assert named_servers(dataclasses.replace(config, policy=rules, limits=limits)) == expected

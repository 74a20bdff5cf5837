"""Every rule of `policy`, whose allowance holds, and what a grant says."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from spawner import policy
from spawner.errors import DeniedError, MaintenanceError
from spawner.grants import PRIORITIES, UNLIMITED, Allowance, PolicyRules, ProfileRule
from spawner.model import GpuRequest, Holder, LabConfig, LeaseState
from spawner.records import Grant, Maintenance, Standing
from tests.unit.values import T0, make_lease, shipped_config

HOUR = 3600.0


def config(rules: PolicyRules | None = None, **limits: Any) -> LabConfig:
    shipped = shipped_config()
    limits = {"servers_per_user": 99, **limits}
    return dataclasses.replace(shipped, policy=rules or PolicyRules(), limits=dataclasses.replace(shipped.limits, **limits))


def held(server: str, gpus: int = 1, **more: Any):
    return make_lease(Holder("ana", server), tuple(f"GPU-{server}-{n}" for n in range(gpus)), **more)


def admit(rules: PolicyRules, request: GpuRequest, *leases: Any, groups: tuple[str, ...] = (), **standing: Any) -> Grant:
    return policy.admit(config(rules), groups)(request, Holder("ana", "new"), Standing(tuple(leases), **standing))


def one(**said: Any) -> PolicyRules:
    return PolicyRules(everyone=Allowance(**said))


def through(**said: Any) -> PolicyRules:
    return PolicyRules(profiles={"gpu-1": ProfileRule(allowance=Allowance(**said))})


ASK = GpuRequest("gpu-1", 1)
ASK2 = GpuRequest("gpu-1", 2)
CPU = GpuRequest("cpu", 0)
WEEK_USED = {"gpu_seconds": {"gpu-1": 9 * HOUR, "other": 1 * HOUR}}


@pytest.mark.parametrize(
    ("rules", "request_", "leases", "standing", "says"),
    [
        pytest.param(one(), ASK2, [held("a", 8)], {}, "", id="no-rule"),
        pytest.param(one(gpus_at_once=2), ASK, [held("a", 1)], {}, "", id="gpus-at-once-just-enough"),
        pytest.param(one(gpus_at_once=2), ASK2, [held("a", 1)], {}, "You hold 1 GPUs and asked for 2 more", id="gpus-at-once"),
        pytest.param(one(gpus_at_once=2), CPU, [held("a", 9)], {}, "", id="gpus-at-once-not-for-cpu"),
        pytest.param(one(gpus_at_once=UNLIMITED), ASK2, [held("a", 90)], {}, "", id="gpus-at-once-unlimited"),
        pytest.param(one(gpus_at_once=0), ASK, [], {}, "you may have 0 at once", id="gpus-at-once-none"),
        pytest.param(
            one(gpus_at_once=2), ASK, [held("a", 2, state=LeaseState.CLAIMED)], {}, "You hold 2 GPUs", id="a-claim-counts"
        ),
        pytest.param(one(gpus_at_once=2), ASK, [held("a", 2, state=LeaseState.DRAINING)], {}, "", id="draining-does-not"),
        pytest.param(one(gpus_at_once=2), ASK2, [held("new", 2)], {}, "", id="own-restart-does-not"),
        pytest.param(one(gpus_per_lab=1), ASK, [held("a", 1)], {}, "", id="gpus-per-lab-enough"),
        pytest.param(one(gpus_per_lab=1), ASK2, [], {}, "2 GPUs in one lab; you may have 1", id="gpus-per-lab"),
        pytest.param(one(gpus_per_lab=0), CPU, [], {}, "", id="gpus-per-lab-not-for-cpu"),
        pytest.param(one(labs_at_once=1), CPU, [held("a", 0)], {}, r"1 labs running \(a\); 1 are allowed", id="labs-at-once"),
        pytest.param(one(labs_at_once=2), CPU, [held("a", 0)], {}, "", id="labs-at-once-enough"),
        pytest.param(one(models=("H100",)), GpuRequest("x", 1, ("L4",)), [], {}, "you may use H100", id="models"),
        pytest.param(one(models=("H100",)), GpuRequest("x", 0, ("L4",)), [], {}, "", id="models-not-for-cpu"),
        pytest.param(one(models=()), GpuRequest("x", 1, ("L4",)), [], {}, "", id="any-model"),
        pytest.param(one(hours_per_week=10), ASK, [], WEEK_USED, "used 10.0 of the 10 GPU-hours", id="hours"),
        pytest.param(one(hours_per_week=10), CPU, [], WEEK_USED, "", id="hours-not-for-cpu"),
        pytest.param(one(hours_per_week=11), ASK, [], WEEK_USED, "", id="hours-left"),
        pytest.param(through(hours_per_week=9), ASK, [], WEEK_USED, "through the profile 'gpu-1'", id="hours-of-the-profile"),
        pytest.param(through(hours_per_week=10), ASK, [], WEEK_USED, "", id="hours-of-another-profile-do-not-count"),
        pytest.param(through(gpus_at_once=1), ASK, [held("a")], {}, "through the profile 'gpu-1'", id="profile-gpus-at-once"),
        pytest.param(through(gpus_at_once=1), ASK, [held("a", profile="z")], {}, "", id="profile-counts-its-own-only"),
        pytest.param(through(gpus_per_lab=1), ASK2, [], {}, "you may have 1 through the profile", id="profile-gpus-per-lab"),
        pytest.param(through(labs_at_once=1), ASK, [held("a")], {}, "1 labs of the profile 'gpu-1'", id="profile-labs"),
        pytest.param(through(labs_at_once=1), ASK, [held("a", profile="z")], {}, "", id="profile-labs-of-its-own-only"),
        pytest.param(through(models=("H100",)), GpuRequest("gpu-1", 1, ("L4",)), [], {}, "you may use H100", id="profile-models"),
        pytest.param(through(gpus_at_once=0), GpuRequest("gpu-2", 1), [], {}, "", id="rule-of-another-profile"),
    ],
)
def test_rules(rules: PolicyRules, request_: GpuRequest, leases: list, standing: dict, says: str):
    if not says:
        assert admit(rules, request_, *leases, **standing)
        return
    with pytest.raises(DeniedError, match=says) as denied:
        admit(rules, request_, *leases, **standing)
    assert denied.value.what_to_do


def test_labs_at_once_of_the_policy_replaces_the_limit_for_everyone():
    rule = policy.admit(config(one(labs_at_once=3), servers_per_user=1), ())
    assert rule(CPU, Holder("ana", "new"), Standing((held("a"), held("b"))))
    with pytest.raises(DeniedError):
        policy.admit(config(servers_per_user=1), ())(CPU, Holder("ana", "new"), Standing((held("a"),)))


def test_maintenance_lets_nobody_start():
    note = Maintenance(T0, "New disks until noon.", "admin")
    with pytest.raises(MaintenanceError, match="New disks until noon"):
        admit(one(), CPU, maintenance=note)


# --- whose allowance holds

RULES = PolicyRules(
    everyone=Allowance(gpus_at_once=1, life=HOUR, priority=1),
    groups={
        "small": Allowance(gpus_at_once=2, models=("L4",), priority=0),
        "big": Allowance(gpus_at_once=8, models=("A100", "L4")),
        "any": Allowance(models=()),
    },
    users={"ana": Allowance(gpus_at_once=4)},
)


@pytest.mark.parametrize(
    ("user", "groups", "key", "value"),
    [
        pytest.param("bo", (), "gpus_at_once", 1, id="everyone"),
        pytest.param("bo", ("small",), "gpus_at_once", 2, id="group-before-everyone"),
        pytest.param("bo", ("small", "big"), "gpus_at_once", 8, id="most-generous-group"),
        pytest.param("bo", ("unknown",), "gpus_at_once", 1, id="unknown-group"),
        pytest.param("ana", ("big",), "gpus_at_once", 4, id="person-before-group-also-where-less"),
        pytest.param("ana", ("small",), "life", HOUR, id="what-nobody-says-is-everyones"),
        pytest.param("ana", (), "hours_per_week", None, id="nothing-said-anywhere"),
        pytest.param("bo", ("small", "big"), "models", ("L4", "A100"), id="models-of-all-groups"),
        pytest.param("bo", ("small", "any"), "models", (), id="any-model-is-the-most-generous"),
        pytest.param("bo", ("small",), "priority", 0, id="priority-of-the-group"),
        pytest.param("bo", ("big",), "priority", 1, id="group-without-priority"),
    ],
)
def test_whose_allowance(user: str, groups: tuple[str, ...], key: str, value: object):
    found = getattr(policy.of_person(RULES, user, groups), key)
    assert (set(found) == set(value)) if isinstance(value, tuple) else found == value


@pytest.mark.parametrize(
    ("user", "groups", "may"),
    [("ana", (), True), ("bo", ("vision",), True), ("bo", ("other",), False), ("bo", (), False)],
)
def test_who_may_use_a_profile(user: str, groups: tuple[str, ...], may: bool):
    rules = PolicyRules(profiles={"gpu-1": ProfileRule(frozenset({"ana"}), frozenset({"vision"}))})
    assert policy.may_see_profile(rules, "gpu-1", user, groups) is may
    assert policy.may_see_profile(rules, "gpu-2", user, groups)
    rule = policy.admit(config(rules), groups)
    if may:
        assert rule(ASK, Holder(user), Standing())
    else:
        with pytest.raises(DeniedError, match="is not for you"):
            rule(ASK, Holder(user), Standing())


# --- what a grant says


@pytest.mark.parametrize(
    ("rules", "request_", "seconds", "life"),
    [
        pytest.param(one(), ASK, 0.0, None, id="no-end"),
        pytest.param(one(life=HOUR), ASK, 0.0, HOUR, id="life"),
        pytest.param(one(life=UNLIMITED), ASK, 0.0, None, id="unlimited"),
        pytest.param(one(life=HOUR), CPU, 0.0, None, id="a-cpu-lab-has-no-end"),
        pytest.param(one(hours_per_week=10), ASK, 4 * HOUR, 6 * HOUR, id="what-is-left-of-the-week"),
        pytest.param(one(hours_per_week=10), ASK2, 4 * HOUR, 3 * HOUR, id="two-gpus-use-it-twice-as-fast"),
        pytest.param(one(hours_per_week=10, life=HOUR), ASK, 4 * HOUR, HOUR, id="the-shorter-of-both"),
        pytest.param(one(hours_per_week=UNLIMITED), ASK, 4 * HOUR, None, id="unlimited-hours"),
        pytest.param(through(life=HOUR), ASK, 0.0, HOUR, id="life-of-the-profile"),
        pytest.param(through(hours_per_week=5), ASK, 4 * HOUR, HOUR, id="hours-of-the-profile"),
    ],
)
def test_life(rules: PolicyRules, request_: GpuRequest, seconds: float, life: float | None):
    granted = admit(rules, request_, gpu_seconds={"gpu-1": seconds})
    assert granted.life == (None if life is None else timedelta(seconds=life))


def test_the_stricter_of_person_and_profile_holds():
    both = PolicyRules(
        everyone=Allowance(life=2 * HOUR, priority=2, models=("L4", "A100")),
        profiles={"gpu-1": ProfileRule(allowance=Allowance(life=HOUR, priority=0, models=("A100", "H100")))},
    )
    granted = admit(both, ASK)
    assert (granted.life, granted.priority, granted.request.gpu_models) == (timedelta(hours=1), 0, ("A100",))


def test_priority_is_normal_where_nobody_says_it():
    assert admit(one(), ASK).priority == 1
    assert admit(one(priority=2), ASK).priority == PRIORITIES["high"]


def test_groups_are_noted_for_accounting():
    assert admit(one(), ASK, groups=("b", "a", "b")).groups == ("a", "b")


@pytest.mark.parametrize(("tickets", "may_wait"), [(0, True), (2, True), (3, False)])
def test_tickets_per_person(tickets: int, may_wait: bool):
    assert (admit(one(), ASK, tickets=tickets).no_ticket == "") is may_wait


@pytest.mark.parametrize(
    ("rules", "leases", "hours"),
    [
        pytest.param(one(), [held("a")], None, id="no-limit"),
        pytest.param(one(hours_per_week=UNLIMITED), [held("a")], None, id="unlimited"),
        pytest.param(one(hours_per_week=14), [held("a")], 4.0, id="one-lab"),
        pytest.param(one(hours_per_week=14), [held("a"), held("b"), held("c", 2)], 1.0, id="all-labs-together"),
        pytest.param(one(hours_per_week=9), [held("a")], 0.0, id="over"),
        pytest.param(through(hours_per_week=11), [held("a"), held("b", profile="z")], 2.0, id="the-profiles-own"),
    ],
)
def test_the_hours_of_a_week_end_for_all_labs_of_a_person_together(rules: PolicyRules, leases: list, hours: float | None):
    found = policy.hours_end(rules, leases[0], Standing(tuple(leases), **WEEK_USED), T0)
    assert found == (None if hours is None else T0 + timedelta(hours=hours))
    assert policy.limits_hours(rules, leases[0]) is (hours is not None)

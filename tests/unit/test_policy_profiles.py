import dataclasses

import pytest

from spawner import policy, profiles
from spawner.errors import DeniedError, UnavailableError
from spawner.model import GpuRequest, Holder, HostCapacity, LeaseState, Limits
from spawner.records import Standing
from tests.unit.values import make_gpu, make_lease, make_profile, shipped_config

LIMITS = Limits(2, 60, 60, 10, 1000, 1000)
REQUEST = GpuRequest("gpu-1", 1)


@pytest.mark.parametrize(
    ("held", "allowed"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([make_lease(Holder("ana", "a"))], True, id="one"),
        pytest.param([make_lease(Holder("ana", "a")), make_lease(Holder("ana", "b"))], False, id="two"),
        pytest.param([make_lease(Holder("ana", "a")), make_lease(Holder("bo", "b"))], True, id="others-do-not-count"),
        pytest.param([make_lease(Holder("ana", "a")), make_lease(Holder("ana", "new"))], True, id="own-restart"),
        pytest.param(
            [make_lease(Holder("ana", "a")), make_lease(Holder("ana", "b"), state=LeaseState.DRAINING)],
            True,
            id="draining-does-not-count",
        ),
    ],
)
def test_labs_at_once(held: list, allowed: bool):
    rule = policy.admit(dataclasses.replace(shipped_config(), limits=LIMITS), ())
    mine = Standing(tuple(lease for lease in held if lease.holder.user == "ana"))
    if allowed:
        rule(REQUEST, Holder("ana", "new"), mine)
    else:
        with pytest.raises(DeniedError, match=r"2 labs running \(a, b\); 2 are allowed"):
            rule(REQUEST, Holder("ana", "new"), mine)


@pytest.mark.parametrize(
    ("user", "groups", "allowed"),
    [("ana", set(), True), ("bo", set(), False), ("bo", {"data"}, True), ("bo", {"other"}, False)],
)
def test_data_writers(user: str, groups: set[str], allowed: bool):
    assert policy.may_write_datasets(user, frozenset(groups), frozenset({"ana"}), frozenset({"data"})) is allowed


def test_unavailable_profile_names_every_reason():
    profile = make_profile(title="Reference", gpus=2, cpus=8.0, memory=32 << 30)
    reason = profiles.unavailable_reason(profile, HostCapacity(2, 24 << 30), [make_gpu(0)])
    assert reason == (
        "The profile 'Reference' needs 8 CPUs (this host has 2), 32 GB memory (this host has 24) and 2 GPUs (this host has 1)."
    )
    with pytest.raises(UnavailableError, match="needs 8 CPUs"):
        profiles.require_available(profile, HostCapacity(2, 24 << 30), [make_gpu(0)])


def test_available_profile_has_no_reason():
    assert profiles.unavailable_reason(make_profile(), HostCapacity(2, 8 << 30), [make_gpu(0)]) == ""


def test_missing_model_is_a_reason():
    reason = profiles.unavailable_reason(make_profile(gpu_models=("H100",)), HostCapacity(2, 8 << 30), [make_gpu(0)])
    assert "1 GPUs of model H100 (this host has 0)" in reason

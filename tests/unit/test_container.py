import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import container, volumes
from spawner.hostconfig import has_cdi, host_options
from spawner.model import DeviceRequest, Holder
from tests.unit.values import make_facts, make_gpu, make_lease, make_profile, shipped_config


def render(*, gpus=(), cdi=True, env=None, data_writable=False, holder="ana", simulated=False):
    known = [make_gpu(i, simulated=simulated) for i in range(4)]
    lease = make_lease(holder, tuple(known[i].uuid for i in gpus))
    return container.render(
        shipped_config(), make_profile(), lease, known, make_facts(cdi=cdi), env or {}, data_writable=data_writable
    )


def test_gpus_are_asked_by_uuid_through_cdi_where_the_engine_has_it():
    uuids = [make_gpu(i).uuid for i in (1, 3)]
    spec = render(gpus=(1, 3))
    assert spec.devices == DeviceRequest("cdi", tuple(f"nvidia.com/gpu={u}" for u in uuids))
    assert spec.env["NVIDIA_VISIBLE_DEVICES"] == ",".join(uuids)


def test_else_through_the_nvidia_driver_by_uuid():
    spec = render(gpus=(2,), cdi=False)
    assert spec.devices == DeviceRequest("nvidia", (make_gpu(2).uuid,))
    assert host_options(spec)["device_requests"] == [
        {"Driver": "nvidia", "DeviceIDs": [make_gpu(2).uuid], "Capabilities": [["gpu"]]}
    ]


@pytest.mark.parametrize("cdi", [True, False])
def test_mig_instances_are_asked_by_their_own_uuid(cdi: bool):
    uuid = "MIG-cccccccc-1111-4222-8333-444444444444"
    part = replace(make_gpu(0), uuid=uuid, parent=make_gpu(0).uuid)
    spec = container.render(
        shipped_config(), make_profile(), make_lease("ana", (uuid,)), [part], make_facts(cdi=cdi), {}, data_writable=False
    )
    assert spec.devices == (DeviceRequest("cdi", (f"nvidia.com/gpu={uuid}",)) if cdi else DeviceRequest("nvidia", (uuid,)))
    assert spec.env["NVIDIA_VISIBLE_DEVICES"] == uuid
    assert json.loads(spec.env["GPULAB_GPUS"])[0]["uuid"] == uuid


def test_a_cpu_profile_gets_no_device_and_says_void():
    spec = render()
    assert spec.devices is None
    assert spec.env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "device_requests" not in host_options(spec)


def test_simulated_gpus_are_told_but_not_asked_of_the_engine():
    spec = render(gpus=(0,), simulated=True)
    assert spec.devices is None
    assert spec.env["NVIDIA_VISIBLE_DEVICES"] == make_gpu(0).uuid
    assert json.loads(spec.env["GPULAB_GPUS"])[0]["simulated"] is True


@pytest.mark.parametrize("name", container.GUARDED_ENV)
def test_guarded_variables_cannot_be_smuggled_in(name: str):
    spec = render(gpus=(0,), env={name: "all", "JUPYTERHUB_USER": "ana"})
    assert spec.env.get(name) != "all"
    assert spec.env["JUPYTERHUB_USER"] == "ana"


def test_a_profiles_image_goes_before_the_labs():
    def image(profile):
        lease = make_lease("ana")
        return container.render(shipped_config(), profile, lease, [], make_facts(), {}, data_writable=False).image

    assert image(make_profile()) == shipped_config().image
    assert image(make_profile(image="lab/own:1")) == "lab/own:1"


def test_data_is_read_only_unless_granted():
    modes = {m.target: m.read_only for m in render().mounts}
    assert modes == {volumes.HOME: False, volumes.DATA: True, volumes.MODELS: False}
    assert not next(m for m in render(data_writable=True).mounts if m.target == volumes.DATA).read_only


def test_limits_reach_the_engine():
    options = host_options(render(gpus=(0,)))
    assert options["mem_limit"] == options["memswap_limit"] == 8 << 30
    assert (options["shm_size"], options["pids_limit"]) == (1 << 30, 1024)
    assert options["cpu_quota"] == 2 * options["cpu_period"]
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges"]
    assert options["auto_remove"] is False


def test_labels_name_lease_user_and_server():
    spec = render(holder=Holder("ana", "train"))
    assert spec.labels[container.LABEL_LEASE] == "0" * 32
    assert (spec.labels[container.LABEL_USER], spec.labels[container.LABEL_SERVER]) == ("ana", "train")
    assert spec.user == "1000:1000"


@pytest.mark.parametrize(
    ("info", "api", "expected"),
    [
        pytest.param({"ServerVersion": "20.10.24+dfsg1"}, "1.41", False, id="debian-12"),
        pytest.param({"ServerVersion": "26.1.5", "CDISpecDirs": ["/etc/cdi"]}, "1.45", True, id="switched-on"),
        pytest.param({"ServerVersion": "26.1.5", "CDISpecDirs": []}, "1.45", False, id="switched-off"),
        pytest.param({"ServerVersion": "24.0.7", "CDISpecDirs": ["/etc/cdi"]}, "1.43", False, id="too-old"),
        pytest.param({"ServerVersion": "28.3.0", "CDISpecDirs": ["/etc/cdi"]}, "1.51", False, id="on-by-default-no-spec"),
        pytest.param(
            {"ServerVersion": "28.3.0", "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"ID": "vendor.com/net=0"}]},
            "1.51",
            False,
            id="other-devices-only",
        ),
        pytest.param(
            {"ServerVersion": "28.3.0", "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"ID": "nvidia.com/gpu=GPU-1"}]},
            "1.51",
            True,
            id="nvidia-spec",
        ),
        pytest.param({"ServerVersion": "?", "CDISpecDirs": ["/etc/cdi"]}, "?", False, id="nonsense"),
    ],
)
def test_cdi_is_used_only_where_the_engine_can_resolve_it(info, api, expected):
    assert has_cdi(info, api) is expected


NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@given(st.text(min_size=1, max_size=300))
def test_any_name_gives_a_valid_docker_name(text: str):
    name = volumes.container_name("lab", Holder(text, text))
    assert NAME.fullmatch(name)
    assert len(name) <= 120
    assert NAME.fullmatch(volumes.home_volume("lab", text))


NAMES = st.text(min_size=1, max_size=30) | st.text("ab-_.", min_size=1, max_size=6)


@given(st.tuples(NAMES, NAMES | st.just("")), st.tuples(NAMES, NAMES | st.just("")))
def test_two_holders_never_share_a_name(one: tuple[str, str], other: tuple[str, str]):
    if one != other:
        assert volumes.container_name("lab", Holder(*one)) != volumes.container_name("lab", Holder(*other))
    if one[0] != other[0]:
        assert volumes.home_volume("lab", one[0]) != volumes.home_volume("lab", other[0])

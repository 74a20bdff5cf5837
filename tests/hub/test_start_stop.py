"""A lab's whole life over REST, on a real hub and a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from spawner.container import LABEL_LEASE, LABEL_SERVER, LABEL_USER
from spawner.model import LeaseState
from tests.support.hub import GPU_A, GPU_B, HubProcess


@pytest.fixture(autouse=True)
def nothing_left(module_lab: HubProcess) -> Iterator[None]:
    """Whatever a failed test left running must not fail the next one too."""
    yield
    admin = module_lab.token("root", admin=True)
    for lease in module_lab.leases():
        module_lab.stop_lab(lease.holder.user, admin, lease.holder.server)


def test_one_gpu_lab_from_start_to_stop(module_lab: HubProcess):
    hub = module_lab
    token = hub.token("ana")
    model = hub.start_lab("ana", token, "gpu-1")
    (lease,) = hub.leases()
    assert (lease.state, lease.gpus, lease.holder.user) == (LeaseState.BOUND, (GPU_A,), "ana")
    (found,) = hub.containers()
    assert found["Labels"][LABEL_LEASE] == lease.id
    assert (found["Labels"][LABEL_USER], found["Labels"][LABEL_SERVER]) == ("ana", "")

    environment = dict(line.split("=", 1) for line in hub.run_inside(found["Id"], "env").splitlines() if "=" in line)
    assert environment["NVIDIA_VISIBLE_DEVICES"] == GPU_A
    (told,) = json.loads(environment["GPULAB_GPUS"])
    assert told["simulated"] is True
    assert hub.run_inside(found["Id"], "id", "-u").strip() == "1000"
    assert "01_first_defect_model.ipynb" in hub.run_inside(found["Id"], "ls", "/home/engineer/notebooks")

    answer = hub.session.get(f"{hub.url}{model['url']}api/status", headers={"Authorization": f"token {token}"}, timeout=20)
    assert answer.ok, answer.text

    hub.stop_lab("ana", token)
    assert hub.containers() == []


def test_a_profile_with_an_image_of_its_own_starts_from_it(module_lab: HubProcess):
    hub = module_lab
    token = hub.token("ana")
    hub.start_lab("ana", token, "predictive")
    (found,) = hub.containers()
    assert hub.engine.client.inspect_container(found["Id"])["Config"]["Image"] == "gpulab/predictive:latest"
    hub.run_inside(found["Id"], "python", "-c", "import statsmodels.api")
    hub.stop_lab("ana", token)


def test_secrets_and_state_are_the_hubs_own(module_lab: HubProcess):
    state = module_lab.files.folder / ".lab"
    assert (state / "secrets").stat().st_mode & 0o077 == 0
    assert (state / "state").stat().st_mode & 0o077 == 0
    for secret in (state / "secrets").iterdir():
        assert secret.stat().st_mode & 0o077 == 0
        assert secret.read_text().strip() not in module_lab.log.read_text()


def test_limits_as_seen_from_inside(module_lab: HubProcess):
    hub = module_lab
    token = hub.token("ana")
    hub.start_lab("ana", token, "gpu-1")
    (found,) = hub.containers()
    inside = hub.engine.client.inspect_container(found["Id"])["HostConfig"]
    assert inside["Memory"] == inside["MemorySwap"] == 1 << 30
    assert inside["PidsLimit"] == 2048
    shm = hub.run_inside(found["Id"], "df", "--block-size=1", "--output=size", "/dev/shm")
    assert int(shm.split()[-1]) == 2 << 30
    status = hub.run_inside(found["Id"], "cat", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"].strip() == "1"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    hub.run_inside(found["Id"], "sh", "-c", "! touch /workspace/data/x 2>/dev/null && touch /workspace/models/x")
    hub.stop_lab("ana", token)


def test_home_and_models_outlive_the_container(module_lab: HubProcess):
    hub = module_lab
    token = hub.token("ana")
    hub.start_lab("ana", token, "cpu")
    first = hub.containers()[0]["Id"]
    hub.run_inside(first, "sh", "-c", "echo mine > ~/kept; echo ours > /workspace/models/kept; echo hers > ~/notebooks/own.txt")
    hub.stop_lab("ana", token)
    hub.start_lab("ana", token, "cpu")
    second = hub.containers()[0]["Id"]
    assert second != first, "a stopped container must never be resumed"
    text = hub.run_inside(second, "cat", "/home/engineer/kept", "/workspace/models/kept", "/home/engineer/notebooks/own.txt")
    assert text.split() == ["mine", "ours", "hers"]
    hub.stop_lab("ana", token)


def test_no_gpu_free_is_answered_at_once(module_lab: HubProcess):
    hub = module_lab
    ana, bo = hub.token("ana"), hub.token("bo")
    hub.start_lab("ana", ana, "gpu-2", "train")
    refused = hub.post_lab("bo", bo, {"profile": "gpu-1", "wait": False})
    # At once: of a refusal that takes its time the hub would have said 202, and the reason on the progress stream.
    assert refused.status_code == 409
    message = refused.json()["message"]
    assert "You asked for 1 GPU; 0 of 2 are free" in message
    assert "held by ana (lab “train”)" in message
    hub.start_lab("bo", bo, "cpu")
    assert {(lease.holder.user, lease.gpus) for lease in hub.leases()} == {("ana", (GPU_A, GPU_B)), ("bo", ())}
    hub.stop_lab("ana", ana, "train")
    hub.stop_lab("bo", bo)


def test_gpus_go_to_different_people_and_come_back(module_lab: HubProcess):
    hub = module_lab
    tokens = {name: hub.token(name) for name in ("ana", "bo")}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: hub.start_lab(name, tokens[name], "gpu-1"), tokens))
    assert sorted(lease.gpus for lease in hub.leases()) == [(GPU_A,), (GPU_B,)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: hub.stop_lab(name, tokens[name]), tokens))
    hub.start_lab("ana", tokens["ana"], "gpu-2")
    hub.stop_lab("ana", tokens["ana"])


def test_labs_at_once_are_limited_across_named_servers(module_lab: HubProcess):
    hub = module_lab
    token = hub.token("ana")
    for server in ("one", "two", "three"):
        hub.start_lab("ana", token, "cpu", server)
    refused = hub.post_lab("ana", token, {"profile": "cpu"}, "four")
    assert refused.status_code == 403
    assert "3 are allowed at once" in refused.json()["message"]
    for server in ("one", "two", "three"):
        hub.stop_lab("ana", token, server)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        pytest.param({"profile": "gpu-9"}, 400, "Name one of: cpu, gpu-1, gpu-2, reference, predictive", id="unknown-profile"),
        pytest.param({}, 400, "No profile was named", id="nothing"),
        pytest.param({"profile": "gpu-2", "gpus": 99}, 400, "gives 1 to 2", id="too-many"),
        pytest.param({"profile": "gpu-1", "gpus": "1"}, 400, "not a whole number", id="text-for-number"),
        pytest.param({"profile": {"a": 1}}, 400, "an object, not a name", id="object"),
        pytest.param({"profile": "../../etc/passwd"}, 400, "There is no profile", id="path"),
        pytest.param({"profile": "cpu", "image": "other"}, 400, "Unknown option 'image'", id="image"),
        pytest.param({"profile": "reference"}, 409, "needs 1024 CPUs", id="host-cannot"),
        pytest.param({"profile": "x" * 10_000_000}, 400, "There is no profile", id="ten-megabytes"),
    ],
)
def test_bad_requests_leave_nothing_and_the_next_start_works(module_lab: HubProcess, options: object, status: int, words: str):
    hub = module_lab
    token = hub.token("eve")
    refused = hub.post_lab("eve", token, options)
    assert refused.status_code == status, refused.text
    assert words in refused.json()["message"]
    assert "Traceback" not in refused.text
    assert len(refused.text) < 1000
    assert hub.leases() == ()
    assert hub.containers() == []


@pytest.mark.parametrize("body", ["[1]", '"text"', '{"user_options": [1]}', '{"user_options": "cpu"}', "{", "\x00"])
def test_bodies_that_are_no_request(module_lab: HubProcess, body: str):
    token = module_lab.token("eve")
    answer = module_lab.api("POST", "/users/eve/server", token, data=body.encode())
    assert answer.status_code == 400, answer.text
    assert "Traceback" not in answer.text
    assert module_lab.leases() == ()


@pytest.mark.parametrize("server", ["UPPER", "a" * 60, "ünï", "..%2f..%2fetc", "a b", "-", "a;rm"])
def test_strange_server_names_start_nothing(module_lab: HubProcess, server: str):
    token = module_lab.token("eve")
    answer = module_lab.post_lab("eve", token, {"profile": "cpu"}, server)
    assert 400 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert module_lab.leases() == ()


def test_another_persons_lab_cannot_be_started(module_lab: HubProcess):
    module_lab.token("ana")
    eve = module_lab.token("eve")
    assert module_lab.post_lab("ana", eve, {"profile": "cpu"}).status_code in (403, 404)
    assert module_lab.leases() == ()


def test_after_all_that_a_start_works(module_lab: HubProcess):
    token = module_lab.token("eve")
    module_lab.start_lab("eve", token, "gpu-1")
    module_lab.stop_lab("eve", token)
    module_lab.assert_agreement()

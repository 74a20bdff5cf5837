"""What is killed, and what survives: after each, ledger and engine agree."""

from __future__ import annotations

import threading
from pathlib import Path

from spawner.container import LABEL_LAB, LABEL_LEASE
from spawner.engine import Engine
from spawner.model import LeaseState, Presence
from tests.support.hub import HubProcess, LabFiles, running_hub


def test_restart_of_the_hub_keeps_labs_and_leases(lab: HubProcess):
    token = lab.token("ana")
    model = lab.start_lab("ana", token, "gpu-1")
    (lease,) = lab.leases()
    container = lab.containers()[0]["Id"]
    lab.terminate()
    assert lab.engine.presence(lease.id) is Presence.RUNNING
    lab.start()
    assert lab.leases() == (lease,)
    assert lab.containers()[0]["Id"] == container
    lab.wait_ready("ana", token)
    reached = lab.session.get(f"{lab.url}{model['url']}api/status", headers={"Authorization": f"token {token}"}, timeout=20)
    assert reached.ok, reached.text
    lab.stop_lab("ana", token)
    lab.assert_agreement()


def test_kill_of_the_hub_keeps_a_running_lab_reachable(lab: HubProcess):
    token = lab.token("ana")
    model = lab.start_lab("ana", token, "gpu-1")
    before = lab.leases()
    lab.kill()
    lab.start()
    lab.wait_ready("ana", token)
    assert lab.leases() == before
    reached = lab.session.get(f"{lab.url}{model['url']}api/status", headers={"Authorization": f"token {token}"}, timeout=20)
    assert reached.ok, reached.text
    lab.stop_lab("ana", token)
    lab.assert_agreement()


def test_kill_of_the_hub_in_mid_start_loses_no_gpu(lab_files: LabFiles, engine: Engine):
    lab_files.edit(limits__start_seconds=5, limits__http_seconds=5)
    with running_hub(lab_files, engine) as lab:
        token = lab.token("ana")
        posted = threading.Thread(target=_post_and_ignore, args=(lab, token))
        posted.start()
        lab.wait_for(lab.leases, 30, "the lease of the start")
        lab.kill()
        posted.join(60)
        lab.start()
        # The start never reached the hub's database: its container is removed and its GPUs come back by themselves.
        lab.wait_for(lambda: not lab.leases(), 90, "the lease of the killed start to be released")
        lab.assert_agreement()
        # Settlement was to lose its patience soon; a start that is to succeed needs more time on a loaded machine.
        lab.terminate()
        lab_files.edit(limits__start_seconds=60, limits__http_seconds=60)
        lab.start()
        lab.start_lab("ana", token, "gpu-2")
        lab.stop_lab("ana", token)
        lab.assert_agreement()


def _post_and_ignore(lab: HubProcess, token: str) -> None:
    try:
        lab.post_lab("ana", token, {"profile": "gpu-2"})
    except OSError:
        # The hub is killed while it answers; that is the test.
        return


def test_lab_that_dies_gives_its_gpus_back(lab: HubProcess):
    token = lab.token("ana")
    lab.start_lab("ana", token, "gpu-2")
    lab.engine.client.kill(lab.containers()[0]["Id"])
    lab.wait_for(lambda: not lab.leases(), 60, "the lease of the dead lab to be released")
    lab.wait_for(lambda: not (lab.server_model("ana", token) or {}).get("ready"), 60, "the hub to notice the dead lab")
    lab.assert_agreement()
    lab.start_lab("ana", token, "gpu-2")
    lab.stop_lab("ana", token)


def test_container_removed_behind_our_back_gives_its_gpus_back(lab: HubProcess):
    token = lab.token("ana")
    lab.start_lab("ana", token, "gpu-2")
    lab.engine.client.remove_container(lab.containers()[0]["Id"], force=True)
    lab.wait_for(lambda: not lab.leases(), 60, "the lease of the removed lab to be released")
    lab.assert_agreement()


def test_lab_that_ends_before_it_answers_is_told_with_the_reason(lab_files: LabFiles, engine: Engine):
    lab_files.edit(profiles__cpu__memory="24m")
    with running_hub(lab_files, engine) as lab:
        token = lab.token("ana")
        refused = lab.post_lab("ana", token, {"profile": "cpu"})
        assert refused.status_code == 500, refused.text
        assert "used more memory than its profile “CPU” allows: the limit is 24 MB" in refused.json()["message"]
        lab.wait_for(lambda: not lab.leases() and not lab.containers(), 30, "the ended lab to be settled")


def test_missing_image_is_told_and_leaks_nothing(lab_files: LabFiles, engine: Engine):
    lab_files.edit(image="gpulab/does-not-exist:latest")
    with running_hub(lab_files, engine) as lab:
        token = lab.token("ana")
        refused = lab.post_lab("ana", token, {"profile": "gpu-2"})
        assert refused.status_code == 500
        assert "gpulab/does-not-exist" in refused.json()["message"]
        lab.wait_for(lambda: not lab.leases(), 30, "the lease of the refused start to be released")
        assert lab.containers() == []


def test_missing_folder_is_told_and_the_next_start_works(lab: HubProcess):
    token = lab.token("ana")
    folder: Path = lab.config.mounts.models
    away = folder.rename(folder.with_name("away"))
    refused = lab.post_lab("ana", token, {"profile": "gpu-1"})
    assert refused.status_code == 503
    assert f"{folder} is missing" in refused.json()["message"]
    assert lab.leases() == ()
    away.rename(folder)
    lab.start_lab("ana", token, "gpu-1")
    assert lab.leases()[0].state is LeaseState.BOUND
    lab.stop_lab("ana", token)


def test_stop_while_starting_leaves_nothing(lab: HubProcess):
    token = lab.token("ana")
    posted = threading.Thread(target=_post_and_ignore, args=(lab, token))
    posted.start()
    lab.wait_for(lab.containers, 30, "the container of the start")
    stopped = lab.api("DELETE", "/users/ana/server", token)
    assert stopped.status_code in (202, 204), stopped.text
    posted.join(60)

    def gone() -> bool:
        assert not (lab.server_model("ana", token) or {}).get("ready"), "the start went on although it was stopped"
        return not lab.leases() and not lab.containers()

    lab.wait_for(gone, 60, "everything of the stopped start to be gone")
    assert "seconds to start" not in lab.log.read_text(), "the hub says so of a lab that is ready"
    lab.assert_agreement()


def test_container_that_outlived_its_lease_is_ended_and_an_unknown_one_is_not(lab: HubProcess):
    token = lab.token("ana")
    lab.start_lab("ana", token, "gpu-1")
    (lease,) = lab.leases()
    lab.stop_lab("ana", token)
    client = lab.engine.client
    for lease_id in (lease.id, "f" * 32):
        labels = {LABEL_LAB: lab.files.name, LABEL_LEASE: lease_id}
        made = client.create_container(lab.config.image, ["sleep", "600"], labels=labels)
        client.start(made["Id"])
    lab.wait_for(lambda: lab.engine.presence(lease.id) is Presence.ABSENT, 30, "the stray to be ended")
    assert lab.engine.presence("f" * 32) is Presence.RUNNING

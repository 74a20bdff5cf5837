"""An engine that stalls, a disk that is full: said in words, nothing lost, and the next start works."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from spawner.container import LABEL_LAB
from spawner.engine import Engine
from spawner.model import LeaseState, Presence
from tests.conftest import OUTCOME
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.relay import StallingRelay


@pytest.fixture
def stalling(
    lab_files: LabFiles, engine: Engine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[HubProcess, StallingRelay]]:
    """A hub that reaches the engine through a relay; the test itself asks the engine directly.

    Its parameter, if any, is what is changed in lab.yaml.
    """
    lab_files.edit(**getattr(request, "param", {}))
    with StallingRelay(lab_files.folder / "engine.sock") as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.url)
        with running_hub(lab_files, engine, lambda: request.node.stash.get(OUTCOME, False)) as hub:
            try:
                yield hub, relay
            finally:
                relay.release()
                relay.resume()


def test_stalled_engine_ends_no_lab_and_is_told(stalling: tuple[HubProcess, StallingRelay]):
    hub, relay = stalling
    ana, bo = hub.token("ana"), hub.token("bo")
    model = hub.start_lab("ana", ana, "gpu-1")
    (lease,) = hub.leases()
    relay.stall()

    refused = hub.post_lab("bo", bo, {"profile": "gpu-1"})
    if refused.status_code == 202:
        # The hub answers after ten seconds in any case; the reason is then on the progress stream.
        reason = hub.api("GET", "/users/bo/server/progress", bo, timeout=60).text
    else:
        assert refused.status_code == 503
        reason = refused.text
    assert "The Docker engine does not answer" in reason
    assert "Traceback" not in reason

    # The hub has polled the lab by now, more than once, and heard nothing: it must take that for running.
    log = hub.log.read_text().count("containers cannot be seen")
    hub.wait_for(lambda: hub.log.read_text().count("containers cannot be seen") > log, 60, "a poll of the stalled engine")
    assert hub.engine.presence(lease.id) is Presence.RUNNING
    assert lease in hub.leases()
    assert (hub.server_model("ana", ana) or {})["ready"]
    reached = hub.session.get(f"{hub.url}{model['url']}api/status", headers={"Authorization": f"token {ana}"}, timeout=20)
    assert reached.ok, "a lab is reached without the engine"

    relay.resume()
    hub.wait_for(lambda: not [x for x in hub.leases() if x.holder.user == "bo"], 90, "the refused start to be settled")
    hub.start_lab("bo", bo, "gpu-1")
    hub.stop_lab("bo", bo)
    hub.stop_lab("ana", ana)
    hub.assert_agreement()


def test_stop_during_a_stall_is_finished_after_it(stalling: tuple[HubProcess, StallingRelay]):
    hub, relay = stalling
    ana = hub.token("ana")
    hub.start_lab("ana", ana, "gpu-2")
    relay.stall()
    asked = threading.Thread(target=hub.api, args=("DELETE", "/users/ana/server", ana), kwargs={"timeout": 120})
    asked.start()
    hub.wait_for(lambda: [x for x in hub.leases() if x.state.value == "draining"], 60, "the lease to drain")
    relay.resume()
    asked.join(120)
    hub.wait_for(lambda: not hub.leases() and not hub.containers(), 90, "the stop to be finished")
    hub.start_lab("ana", ana, "gpu-2")
    hub.stop_lab("ana", ana)


@pytest.mark.parametrize("stalling", [{"limits__start_seconds": 10}], indirect=True, ids=["short-limit"])
def test_creation_on_its_way_keeps_its_gpus_until_its_end_is_known(stalling: tuple[HubProcess, StallingRelay]):
    hub, relay = stalling
    began = int(time.time())
    ana, bo = hub.token("ana"), hub.token("bo")
    relay.hold("/containers/create")
    refused = hub.post_lab("ana", ana, {"profile": "gpu-2"})
    assert relay.holds_one, refused.text
    assert refused.status_code in (202, 500, 503), refused.text

    # Given up and not there: but the creation may still arrive, and so these GPUs are nobody else's.
    (lease,) = hub.wait_for(lambda: [x for x in hub.leases() if x.absent_since], 60, "settlement to see no container")
    assert (lease.state, lease.in_flight) == (LeaseState.DRAINING, True)
    other = hub.post_lab("bo", bo, {"profile": "gpu-1", "wait": False})
    assert other.status_code == 409
    assert "0 of 2 are free" in other.json()["message"]

    relay.stall()
    unknown = "the engine does not answer: "
    rounds = hub.log.read_text().count(unknown)
    hub.wait_for(lambda: hub.log.read_text().count(unknown) > rounds, 60, "a round of settlement without an answer")
    assert [x.id for x in hub.leases()] == [lease.id]

    relay.release()
    relay.resume()
    hub.wait_for(lambda: _creations(hub, began), 30, "the creation to arrive after all")
    hub.wait_for(lambda: not hub.leases() and not hub.containers(), 90, "the late container to be removed and its lease released")
    hub.start_lab("bo", bo, "gpu-2")
    hub.stop_lab("bo", bo)
    hub.assert_agreement()


def _creations(hub: HubProcess, since: int) -> list[dict[str, Any]]:
    """What the engine remembers of containers that were created, also of those that are gone again."""
    filters = {"type": "container", "event": "create", "label": f"{LABEL_LAB}={hub.files.name}"}
    return list(hub.engine.client.events(since=since, until=int(time.time()), filters=filters, decode=True))


@pytest.fixture
def small_disk(lab_files: LabFiles) -> Iterator[Path]:
    """A file system of 96 MB for the state folder, as a disk that can really be filled."""
    state = lab_files.folder / ".lab"
    state.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(state)], check=True)
    try:
        yield state
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_full_disk_is_told_and_the_next_start_works(small_disk: Path, lab_files: LabFiles, engine: Engine):
    with running_hub(lab_files, engine) as hub:
        token = hub.token("ana")
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            for _ in range(80):
                file.write(bytes(1 << 20))
        refused = hub.post_lab("ana", token, {"profile": "gpu-1"})
        assert refused.status_code == 503, refused.text
        assert "disk is full" in refused.json()["message"]
        assert hub.leases() == ()
        assert hub.containers() == []
        ballast.unlink()
        hub.start_lab("ana", token, "gpu-1")
        hub.stop_lab("ana", token)


def test_disk_without_a_free_block_is_told_at_every_door(small_disk: Path, lab_files: LabFiles, engine: Engine):
    with running_hub(lab_files, engine) as hub:
        token, other = hub.token("ana"), hub.token("bo")
        hub.start_lab("ana", token, "gpu-1")
        ballast = _fill(small_disk)

        refused = hub.post_lab("bo", other, {"profile": "gpu-1"})
        assert (refused.status_code, "disk is full" in refused.json()["message"]) == (503, True)
        browser = requests.Session()
        page = browser.get(f"{hub.url}/hub/login", timeout=20)
        assert (page.status_code, "disk is full" in page.text) == (503, True)
        page = browser.post(f"{hub.url}/hub/login", data={"token": other}, timeout=20)
        assert (page.status_code, "disk is full" in page.text) == (503, True)
        page = browser.get(f"{hub.url}/hub/spawn", timeout=20)
        assert (page.status_code, "disk is full" in page.text) == (503, True)
        assert [lease.holder.user for lease in hub.leases()] == ["ana"]
        assert len(hub.containers()) == 1, "nothing was made, and the lab that runs goes on"

        # A stop needs no space: the lab goes, and what could not be written is settled once it can.
        assert hub.api("DELETE", "/users/ana/server", token, timeout=60).status_code < 500
        hub.wait_for(lambda: not hub.containers(), 60, "the stop on a full disk")
        ballast.unlink()
        hub.wait_for(lambda: not hub.leases(), 60, "the lease to be settled")
        hub.start_lab("bo", other, "gpu-2")
        hub.stop_lab("bo", other)
        hub.assert_agreement()


def _fill(folder: Path) -> Path:
    """Write until the file system has not one block left."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    return ballast

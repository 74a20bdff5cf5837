"""An engine that stalls, a disk that is full: said in words, nothing lost, and the next start works."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.engine import Engine
from spawner.model import Presence
from tests.support.hub import HubProcess, LabFiles, remove_docker_objects
from tests.support.relay import StallingRelay


@pytest.fixture
def stalling(lab_files: LabFiles, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HubProcess, StallingRelay]]:
    """A hub that reaches the engine through a relay; the test itself asks the engine directly."""
    with StallingRelay(lab_files.folder / "engine.sock") as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.url)
        hub = HubProcess(lab_files, engine)
        try:
            hub.start()
            yield hub, relay
        except BaseException:
            hub.print_evidence()
            raise
        finally:
            relay.resume()
            hub.stop()


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
    log = hub.log.read_text().count("presence of lease")
    hub.wait_for(lambda: hub.log.read_text().count("presence of lease") > log, 60, "a poll of the stalled engine")
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
    hub = HubProcess(lab_files, engine)
    try:
        hub.start()
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
    finally:
        hub.stop()
        remove_docker_objects(engine, lab_files.name)

"""Stops under trouble: a ledger that is locked, a lab that takes its time to save."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import sqlalchemy as sa

from spawner.engine import Engine
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.web import Browser

# What a writer waits for the ledger's lock before it gives up; a page that took part in that would take as long.
BUSY_SECONDS = 10
SAVING_SECONDS = 15


@contextmanager
def locked_ledger(lab: HubProcess) -> Iterator[None]:
    """Another process, a backup for example, keeps the ledger's lock."""
    path = sa.make_url(lab.config.ledger_url).database
    assert path
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_stop_is_not_lost_while_the_ledger_is_locked_and_pages_stay_quick(lab: HubProcess):
    ana, bo = Browser(lab, "ana"), Browser(lab, "bo")
    token = lab.token("ana")
    lab.start_lab("ana", token, "gpu-2")
    with ThreadPoolExecutor(1) as pool, closing(ana.session), closing(bo.session):
        with locked_ledger(lab):
            asked = pool.submit(lab.api, "DELETE", "/users/ana/server", token, timeout=120)
            for browser, path in ((ana, "/hub/home"), (bo, "/hub/home"), (bo, "/hub/spawn/bo")):
                began = time.monotonic()
                assert browser.get(path).status_code == 200
                assert time.monotonic() - began < BUSY_SECONDS / 2, path
            lab.wait_for(lambda: not lab.containers(), 60, "the lab to be ended although the ledger is locked")
        assert asked.result().status_code in (202, 204)
    lab.wait_for(lambda: not lab.leases(), 60, "the lease to be released once the ledger can be written")
    lab.start_lab("ana", token, "gpu-2")
    lab.stop_lab("ana", token)
    lab.assert_agreement()


def image_that_saves(engine: Engine, name: str, image: str) -> str:
    """A lab image whose first process, asked to end, takes `SAVING_SECONDS` and then leaves a note on the models' folder."""
    config = engine.client.inspect_image(image)["Config"]
    start = shlex.join([*(config["Entrypoint"] or []), *config["Cmd"]])
    save = f"sleep {SAVING_SECONDS}; echo whole > /workspace/models/saved; kill $lab"
    command = ["bash", "-c", f"{start} & lab=$!; trap '{save}' TERM; wait; wait"]
    made = engine.client.create_container(image, ["true"])
    try:
        engine.client.commit(made["Id"], repository=name, tag="saves", changes=[f"ENTRYPOINT []\nCMD {json.dumps(command)}"])
    finally:
        engine.client.remove_container(made["Id"], force=True, v=True)
    return f"{name}:saves"


def test_lab_that_takes_its_time_to_save_is_not_cut_short(lab_files: LabFiles, engine: Engine):
    image = image_that_saves(engine, lab_files.name, "gpulab/pytorch:latest")
    lab_files.edit(image=image, limits__stop_seconds=SAVING_SECONDS + 10)
    with running_hub(lab_files, engine) as lab:
        token = lab.token("ana")
        lab.start_lab("ana", token, "gpu-1")
        lab.stop_lab("ana", token, wait=SAVING_SECONDS + 45)
        assert (lab.config.mounts.models / "saved").read_text() == "whole\n"
        assert lab.containers() == []

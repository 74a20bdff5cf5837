"""A lab whose memory is full, on a real hub and engine: kernels go before JupyterLab, and their owner reads what happened."""

from __future__ import annotations

import contextlib
import html
import re
from typing import Any

import docker.errors

from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.model import Holder
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.web import Browser

# Runs inside the lab: a notebook's kernel, as JupyterLab starts it, then code in it that takes memory in steps.
HOG = """
import json, os, sys, urllib.request
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir

base, token = sys.argv[1], os.environ["JUPYTERHUB_API_TOKEN"]
session = {"path": "train.ipynb", "name": "train.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
request = urllib.request.Request(
    f"http://127.0.0.1:8888{base}api/sessions", json.dumps(session).encode(), {"Authorization": f"token {token}"})
kernel = json.load(urllib.request.urlopen(request, timeout=60))["kernel"]["id"]
client = BlockingKernelClient(connection_file=f"{jupyter_runtime_dir()}/kernel-{kernel}.json")
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=60)
client.execute("import time; kept = []\\nwhile True: kept.append(b'x' * (8 << 20)); time.sleep(0.02)")
"""


def home(browser: Browser) -> str:
    page = browser.get("/hub/home")
    assert page.ok, page.text
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.content.decode())))


def inside(hub: HubProcess, *command: str) -> Any:
    """Start a command in the only lab and leave it running."""
    (found,) = hub.containers()
    made = hub.engine.client.exec_create(found["Id"], list(command))
    return hub.engine.client.exec_start(made["Id"], detach=True)


def scores(hub: HubProcess) -> dict[str, int]:
    """Command line → the kernel's score of every process in the only lab."""
    script = (
        "cd /proc; for p in [0-9]*; do echo $(cat $p/oom_score_adj) $(tr -c '[:print:]' ' ' < $p/cmdline); done 2>/dev/null; true"
    )
    (found,) = hub.containers()
    lines = hub.run_inside(found["Id"], "bash", "-c", script).splitlines()
    return {words: int(score) for score, _, words in (line.partition(" ") for line in lines)}


def test_a_full_memory_ends_the_kernel_first_and_its_owner_reads_it_and_why_the_lab_ended(lab_files: LabFiles, engine: Engine):
    lab_files.edit(**{"profiles__gpu-1__memory": "400m", "profiles__gpu-1__shm": "400m", "profiles__gpu-1__title": "Small"})
    with running_hub(lab_files, engine) as hub:
        ana, browser = hub.token("ana"), Browser(hub, "ana")
        model = hub.start_lab("ana", ana, "gpu-1")
        assert "was killed" not in home(browser)

        inside(hub, "python", "-c", HOG, model["url"])
        hub.wait_for(lambda: "was killed because" in home(browser), 90, "the home page to say what was killed")
        told = home(browser)
        assert "The kernel of “train.ipynb” was killed because the lab's memory of 400 MB was full" in told
        assert "The next larger profile is" in told
        headers = {"Authorization": f"token {ana}"}
        alive = hub.session.get(f"{hub.url}{model['url']}api/kernels", headers=headers, timeout=20)
        assert alive.ok, "JupyterLab lives on and answers"
        assert [kernel["name"] for kernel in alive.json()] == ["python3"], "and has started the kernel again"
        hub.wait_for(lambda: any("ipykernel" in words for words in scores(hub)), 30, "the kernel to be started again")
        by_name = scores(hub)
        assert {score for words, score in by_name.items() if "ipykernel" in words} == {1000}
        assert [score for words, score in by_name.items() if "jupyterhub-singleuser" in words] == [0, 0], "guard and server"

        (lease,) = hub.leases()

        def ended() -> bool:
            # Files in memory belong to no process: in the end only JupyterLab is left to be killed.
            for found in hub.containers():
                with contextlib.suppress(docker.errors.APIError):
                    fill = ["sh", "-c", "dd if=/dev/zero bs=1M of=/dev/shm/$(date +%N) 2>/dev/null"]
                    made = hub.engine.client.exec_create(found["Id"], fill)
                    hub.engine.client.exec_start(made["Id"])
            hub.session.get(f"{hub.url}{model['url']}api/contents?content=1", headers=headers, timeout=30)
            return not hub.leases()

        hub.wait_for(ended, 120, "the lab to end")
        ledger = Ledger.open(hub.config.ledger_url)
        try:
            ((noted, _, why),) = ledger.endings(Holder("ana"))
        finally:
            ledger.close()
        assert noted == lease.id
        assert why.startswith(
            "The lab was stopped because it used more memory than its profile “Small” allows: the limit is 400 MB"
        )
        assert "the most it used was 400 MB" in why
        assert "killed" in why
        assert "The next larger profile is" in why
        (ending,) = hub.api("GET", "/gpus/notices", ana).json()["endings"]
        assert ending["text"] == why, "what every page of the hub shows"
        hub.assert_agreement()

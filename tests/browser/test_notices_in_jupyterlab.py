"""A person who works in JupyterLab and looks at no page of the hub reads the warning before a stop there, and can act on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests
from playwright.sync_api import expect

from spawner.container import LABEL_USER
from spawner.engine import Engine
from tests.browser.conftest import Visitor
from tests.browser.jupyterlab import SLOW, wait_until_ready
from tests.support.hub import HubProcess, make_lab_files, remove_docker_objects, running_hub

QUICK = {"mode": "on", "notice": "3s", "warning": "6s", "grace": "30m", "extend": "1h", "extensions": 1}


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[HubProcess]:
    """A hub that warns at once."""
    files = make_lab_files(tmp_path_factory.mktemp("lab"))
    files.edit(reclaim=QUICK)
    try:
        with running_hub(files, engine) as hub:
            yield hub
    finally:
        remove_docker_objects(engine, files.name)


def test_a_warning_is_read_in_jupyterlab_extended_on_the_hubs_page_and_gone(
    visitor: Callable[..., Visitor], module_lab: HubProcess
) -> None:
    hub, ana = module_lab, visitor()
    token = hub.token("ana")
    ana.log_in(token)
    hub.start_lab("ana", token, "gpu-1")
    ana.open("/user/ana/lab")
    wait_until_ready(ana.page)
    toast = ana.page.locator(".jp-toastContainer, .Toastify").filter(has_text="Your lab has not used its 1 GPU")
    expect(toast.first).to_contain_text("Stop at", timeout=SLOW)
    # A try of a press waits until the toast has slid in.
    toast.first.get_by_role("button", name="Extend (My labs)").click(trial=True)
    ana.shoot("jupyterlab-warning")
    with ana.page.expect_popup() as opened:
        toast.first.get_by_role("button", name="Extend (My labs)").click()
    labs = opened.value
    labs.get_by_role("button", name="Extend by 60 min").click()
    expect(labs.get_by_role("region", name="Warning")).to_have_count(0)
    labs.close()
    expect(toast).to_have_count(0, timeout=SLOW)


def test_the_token_inside_a_lab_reads_the_notices_of_that_lab_alone(module_lab: HubProcess) -> None:
    hub = module_lab
    token = hub.token("bo")
    hub.stop_lab("ana", hub.token("ana"))
    hub.start_lab("bo", token, "gpu-1", "one")
    hub.start_lab("bo", token, "gpu-1", "two")
    notices = f"{hub.url}/hub/api/gpus/notices"

    def told(with_token: str, what: str = "notices") -> set[str]:
        answer = requests.get(notices, headers={"Authorization": f"token {with_token}"}, timeout=20)
        assert answer.status_code == 200, answer.text
        return {one["server"] for one in answer.json()[what]}

    hub.wait_for(lambda: told(token) == {"one", "two"}, 60, "both labs to be warned of")
    inside = {}
    for found in hub.containers():
        if found["Labels"][LABEL_USER] == "bo":
            inside[found["Labels"]["io.gpulab.server"]] = hub.run_inside(found["Id"], "printenv", "JUPYTERHUB_API_TOKEN").strip()
    assert told(inside["one"]) == told(inside["one"], "labs") == {"one"}
    of_others = [("GET", "/users/ana"), ("GET", "/gpus/usage"), ("GET", "/gpus/tickets"), ("GET", "/gpus/audit")]
    for method, path in (*of_others, ("DELETE", "/users/bo/servers/two"), ("POST", "/users/bo/servers/three")):
        headers = {"Authorization": f"token {inside['one']}"}
        answer = requests.request(method, f"{hub.url}/hub/api{path}", headers=headers, timeout=20)
        assert answer.status_code in (403, 404), f"{method} {path}: {answer.status_code} {answer.text[:300]}"
    assert told(token) == {"one", "two"}
    for name in ("one", "two"):
        hub.stop_lab("bo", token, name)

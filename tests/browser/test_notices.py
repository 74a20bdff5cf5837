"""What a person reads about their labs in a real browser: a warning with *Extend*, why a lab ended, a restart after lost GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest
from playwright.sync_api import expect

from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.told import Trouble, TroubleKind
from tests.browser.conftest import Visitor
from tests.browser.jupyterlab import SLOW
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


def test_a_warning_is_extended_an_ending_is_read_and_lost_gpus_come_back(
    visitor: Callable[..., Visitor], module_lab: HubProcess
) -> None:
    hub, ana = module_lab, visitor()
    token = hub.token("ana")
    ana.log_in(token)
    hub.start_lab("ana", token, "gpu-1")
    ana.open("/hub/home")
    warning = ana.page.get_by_role("region", name="Warning")
    expect(warning).to_contain_text("Your lab has not used its 1 GPU", timeout=SLOW)
    expect(warning).to_contain_text("It stops at")
    ana.assert_accessible()
    ana.shoot("warning")
    ana.page.get_by_role("button", name="Extend by 60 min").press("Enter")
    expect(warning).to_have_count(0)

    (lease,) = hub.leases()
    ledger = Ledger.open(hub.config.ledger_url)
    text = "Your lab has lost its GPUs (nvidia0 cannot be opened). Save your work and restart it; the same GPUs stay yours."
    ledger.note_trouble(Trouble(lease.id, TroubleKind.LOST, datetime.now(timezone.utc), text))
    ana.open("/hub/home")
    expect(warning).to_contain_text("has lost its GPUs")
    ana.page.get_by_role("button", name="Restart it on the same GPUs").click()
    ana.page.wait_for_url("**/user/ana/lab**", timeout=SLOW)
    (again,) = hub.leases()
    assert (again.gpus, again.id != lease.id) == (lease.gpus, True)

    ledger.note_ending(again.id, "The lab was stopped because it had not used its 1 GPU for 3 hours.")
    ledger.close()
    hub.stop_lab("ana", token)
    for page in ("/hub/home", "/hub/spawn/ana"):
        ana.open(page)
        expect(warning).to_contain_text("The lab was stopped because it had not used its 1 GPU for 3 hours.")
    ana.assert_accessible()
    ana.page.get_by_role("button", name="I have read this").click()
    expect(warning).to_have_count(0)
    ana.open("/hub/home")
    expect(ana.page.get_by_role("heading", name="My labs")).to_be_visible()
    expect(warning).to_have_count(0)


def test_stop_now_stops_the_lab(visitor: Callable[..., Visitor], module_lab: HubProcess) -> None:
    hub, bo = module_lab, visitor(width=400, dark=True)
    token = hub.token("bo")
    bo.log_in(token)
    hub.start_lab("bo", token, "gpu-1", "train")
    bo.open("/hub/home")
    warning = bo.page.get_by_role("region", name="Warning")
    expect(warning).to_contain_text("Lab “train”: Your lab has not used its 1 GPU", timeout=SLOW)
    bo.assert_accessible()
    warning.get_by_role("button", name="Stop now").click()
    hub.wait_for(lambda: not hub.leases(), 60, "the lab to be stopped")
    expect(bo.page.get_by_role("heading", name="My labs")).to_be_visible()

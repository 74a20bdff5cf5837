"""What a person reads about their labs in a real browser: a warning with *Extend*, why a lab ended, a restart after lost GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
import yaml
from playwright.sync_api import expect

from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.told import Trouble, TroubleKind
from tests.browser.conftest import WRITE_SCREENSHOTS, Visitor
from tests.browser.jupyterlab import SLOW
from tests.support.hub import REPO, HubProcess, make_lab_files, remove_docker_objects, running_hub

TOP = {"x": 0, "y": 0, "width": 1200, "height": 600}
RULES = {"mode": "on", "notice": "3s", "warning": "2h", "grace": "30m", "extend": "1h", "extensions": 1}


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[HubProcess]:
    """A hub that looks at its labs every second."""
    files = make_lab_files(tmp_path_factory.mktemp("lab"))
    files.edit(reclaim=RULES)
    if WRITE_SCREENSHOTS:
        files.edit(profiles=yaml.safe_load((REPO / "lab.yaml").read_text())["profiles"])
    try:
        with running_hub(files, engine) as hub:
            yield hub
    finally:
        remove_docker_objects(engine, files.name)


def wait_until_idle(hub: HubProcess, user: str) -> None:
    """The lab is found to be idle; from then on as if that had been found two hours ago."""
    ledger = Ledger.open(hub.config.ledger_url)

    def moved() -> bool:
        (lease,) = [lease for lease in hub.leases() if lease.holder.user == user]
        watch = ledger.watches().get(lease.id)
        if watch is None or watch.idle_since is None:
            return False
        return bool(ledger.rewatch([(watch, dataclasses.replace(watch, idle_since=watch.idle_since - timedelta(hours=2)))]))

    hub.wait_for(moved, 60, f"the lab of {user} to be idle")
    ledger.close()


def test_a_warning_is_extended_an_ending_is_read_and_lost_gpus_come_back(
    visitor: Callable[..., Visitor], module_lab: HubProcess
) -> None:
    hub, ana = module_lab, visitor()
    token = hub.token("ana")
    ana.log_in(token)
    hub.start_lab("ana", token, "gpu-1")
    wait_until_idle(hub, "ana")
    ana.open("/hub/home")
    warning = ana.page.get_by_role("region", name="Warning")
    expect(warning).to_contain_text("It stops at", timeout=SLOW)
    expect(warning).to_contain_text("Your lab has not used its 1 GPU for 2 hours.")
    ana.assert_accessible()
    ana.shoot("warning", clip=TOP)
    root = visitor()
    root.log_in(hub.token("root", admin=True))
    root.open("/hub/gpus")
    stop = root.page.locator(".board-gpu", has_text="held by ana").locator("[data-when=stop_at]")
    expect(stop).to_contain_text("to be stopped")
    ana.page.get_by_role("button", name="Extend by 60 min").press("Enter")
    expect(warning).to_have_count(0)
    expect(stop).to_be_hidden()

    (lease,) = hub.leases()
    ledger = Ledger.open(hub.config.ledger_url)
    text = "Your lab has lost its GPUs (nvidia0 cannot be opened). Save your work and restart it; the same GPUs stay yours."
    ledger.note_trouble(Trouble(lease.id, TroubleKind.LOST, datetime.now(timezone.utc), text))
    ana.open("/hub/home")
    expect(warning).to_contain_text("has lost its GPUs")
    ana.assert_accessible()
    ana.shoot("lost", clip=TOP)
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
    ana.shoot("ending", clip=TOP)
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
    wait_until_idle(hub, "bo")
    bo.open("/hub/home")
    warning = bo.page.get_by_role("region", name="Warning")
    expect(warning).to_contain_text("It stops at", timeout=SLOW)
    expect(warning).to_contain_text("Lab “train”: Your lab has not used its 1 GPU for 2 hours.")
    bo.assert_accessible()
    bo.shoot("warning-phone", full_page=True)
    warning.get_by_role("button", name="Stop now").click()
    hub.wait_for(lambda: not hub.leases(), 60, "the lab to be stopped")
    expect(bo.page.get_by_role("heading", name="My labs")).to_be_visible()

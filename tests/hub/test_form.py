"""The same refusals through the browser's form: one sentence on the page, with what to do, and nothing left behind."""

from __future__ import annotations

import html
from collections.abc import Iterator

import pytest

from tests.support.hub import HubProcess
from tests.support.web import Browser


@pytest.fixture
def browser(module_lab: HubProcess) -> Iterator[Browser]:
    opened = Browser(module_lab, "ana")
    yield opened
    opened.session.close()


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        pytest.param({"profile": "gpu-9"}, 400, "There is no profile 'gpu-9'", id="unknown-profile"),
        pytest.param({}, 400, "No profile was named", id="nothing"),
        pytest.param({"profile": "gpu-2", "gpus": "99"}, 400, "gives 1 to 2", id="too-many"),
        pytest.param({"profile": "gpu-1", "gpus": "one"}, 400, "not a whole number", id="text-for-number"),
        pytest.param({"profile": "<script>alert(1)</script>"}, 400, "There is no profile", id="markup"),
        pytest.param({"profile": "../../etc"}, 400, "There is no profile", id="path"),
        pytest.param({"profile": "reference"}, 409, "needs 1024 CPUs", id="host-cannot"),
        pytest.param({"profile": "x" * 1_000_000}, 400, "There is no profile", id="a-megabyte"),
    ],
)
def test_refusal_stands_on_the_page(browser: Browser, form: dict[str, str], status: int, words: str):
    answer = browser.spawn(**form)
    assert answer.status_code == status
    assert words in html.unescape(answer.text)
    assert "Traceback" not in answer.text
    assert "<script>alert" not in answer.text
    assert 'name="profile"' in answer.text, "the form stands below the refusal"
    assert browser.hub.leases() == ()


def test_form_and_rest_say_the_same_of_an_unavailable_profile(browser: Browser):
    hub = browser.hub
    page = html.unescape(browser.get(f"/hub/spawn/{browser.name}").text)
    refused = hub.post_lab("ana", hub.token("ana"), {"profile": "reference"})
    reason = refused.json()["message"].removesuffix(" Choose another profile.")
    assert reason.startswith("The profile 'Reference' needs 1024 CPUs (this host has")
    assert reason in page


def test_no_gpu_free_offers_what_can_start(browser: Browser):
    hub = browser.hub
    bo = hub.token("bo")
    hub.start_lab("bo", bo, "gpu-2", "night-run")
    answer = browser.spawn(profile="gpu-1", wait="false")
    page = html.unescape(answer.content.decode())
    assert answer.status_code == 409
    assert "You asked for 1 GPU; 0 of 2 are free." in page
    assert "GPU 0 and GPU 1 are held by bo (lab “night-run”) since" in page
    assert "Start without a GPU" in page
    hub.stop_lab("bo", bo, "night-run")


def test_missing_folder_is_told_on_the_page(browser: Browser):
    folder = browser.hub.config.mounts.models
    away = folder.rename(folder.with_name("away"))
    try:
        answer = browser.spawn(profile="cpu")
    finally:
        away.rename(folder)
    assert answer.status_code == 503
    assert f"The folder {folder} is missing" in html.unescape(answer.text)


def test_form_without_its_token_is_refused(browser: Browser):
    answer = browser.session.post(f"{browser.hub.url}/hub/spawn/ana", data={"profile": "cpu"}, timeout=20)
    assert answer.status_code == 403
    assert browser.hub.leases() == ()


def test_a_link_alone_starts_nothing(browser: Browser):
    page = browser.get("/hub/spawn/ana?opt-profile=gpu-1").text
    assert "A link cannot start a lab." in page
    assert browser.hub.leases() == ()
    assert browser.hub.containers() == []

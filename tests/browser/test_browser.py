"""The whole way of an engineer, in a real browser: log in, choose, wait, work, stop; and what happens when it goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from spawner import datasets
from tests.browser.conftest import Visitor
from tests.browser.jupyterlab import SLOW, open_notebook, wait_until_ready
from tests.support.hub import GPU_A, GPU_B, HubProcess

Visitors = Callable[..., Visitor]
NOTEBOOK = "notebooks/01_first_defect_model.ipynb"
# The part of a window that has something in it, for pictures.
TOP = {"x": 0, "y": 0, "width": 1200, "height": 600}


@pytest.fixture(autouse=True)
def no_lab_left(module_lab: HubProcess) -> Iterator[None]:
    """Every test finds and leaves a lab without leases."""
    yield
    for lease in module_lab.leases():
        token = module_lab.token(lease.holder.user)
        module_lab.stop_lab(lease.holder.user, token, lease.holder.server)


def watch_start(page: Page) -> None:
    """The progress page is up and has said something."""
    page.wait_for_url("**/hub/spawn-pending/**")
    page.locator("#progress-log li").first.wait_for(state="attached")


def test_from_log_in_to_a_model_that_outlives_the_lab(module_lab: HubProcess, visitor: Visitors):
    datasets.get("textures", module_lab.config, module_lab.engine.run_once)
    ana = visitor()
    page = ana.page
    token = module_lab.token("ana")
    ana.open("/")
    page.wait_for_url("**/hub/login**")
    ana.shoot("login", clip=TOP)
    ana.log_in(token)

    page.get_by_role("link", name="Start").click()
    expect(page.get_by_text("2 of 2 GPUs free")).to_be_visible()
    expect(page.locator(".lab-gpu").get_by_text("simulated")).to_have_count(2)
    ana.shoot("profiles", full_page=True)

    page.get_by_label("1 GPU", exact=True).check()
    page.get_by_role("button", name="Start", exact=True).click()
    watch_start(page)
    page.evaluate("document.getElementById('progress-details')?.setAttribute('open', '')")
    ana.shoot("progress", clip=TOP)
    wait_until_ready(page)

    notebook = open_notebook(page, f"{module_lab.url}/user/ana", NOTEBOOK)
    # Imports, the data, and a picture of it.
    drawn = notebook.run_code_cells(3)
    expect(drawn.locator(".jp-OutputArea-output img")).to_be_visible()
    drawn.scroll_into_view_if_needed()
    ana.shoot("lab")
    assert notebook.run('import os; print(os.environ["NVIDIA_VISIBLE_DEVICES"])') in (GPU_A, GPU_B)
    saved = "from pathlib import Path; model = Path('/workspace/models/browser.bin')"
    assert notebook.run(f"{saved}; print(model.write_bytes(b'weights'))") == "7"

    ana.open("/hub/home")
    expect(page.locator(".lab-row").first).to_contain_text("GPU 0 (Simulated 24 GB, 24 GB)")
    ana.shoot("home", clip=TOP)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("link", name="Start")).to_be_visible(timeout=SLOW)

    ana.start("cpu", "/hub/spawn/ana")
    wait_until_ready(page)
    notebook = open_notebook(page, f"{module_lab.url}/user/ana", NOTEBOOK)
    assert notebook.run('import os; print(os.environ["NVIDIA_VISIBLE_DEVICES"])') == "void"
    assert notebook.run(f"{saved}; print(model.read_bytes().decode())") == "weights"


# The browser's own notifications, overheard; and a person who has another window before this one.
LOOKS_AWAY = """
if (location.pathname === "/hub/line") {
  const Real = window.Notification;
  window.Notification = class extends Real {
    constructor(title, options) { super(title, options); window.heard(options.body); }
  };
  Object.defineProperty(Document.prototype, "hidden", { get: () => true });
}
"""


def test_no_gpu_free_leads_to_the_line_and_its_end_to_the_lab(module_lab: HubProcess, visitor: Visitors):
    bo_token = module_lab.token("bo")
    module_lab.start_lab("bo", bo_token, "gpu-2", "train")
    ana = visitor()
    page = ana.page
    ana.log_in(module_lab.token("ana"))
    ana.open("/hub/spawn/ana")
    expect(page.get_by_text("0 of 2 GPUs free")).to_be_visible()
    expect(page.get_by_text("Needs 1 GPU; none free right now.")).to_be_visible()

    ana.expect_status(409)
    ana.start("gpu-1", "/hub/spawn/ana")
    page.wait_for_url("**/hub/line")
    expect(page.get_by_role("heading", name="Number 1 of 1 in line")).to_be_visible()
    expect(page.get_by_text("expected in about 7 days")).to_be_visible()
    ana.shoot("line", clip=TOP)

    # Meanwhile a lab without a GPU; the ticket stays.
    page.get_by_role("button", name="Start a lab without a GPU meanwhile").click()
    wait_until_ready(page)
    assert {lease.profile: lease.gpus for lease in module_lab.leases() if lease.holder.user == "ana"} == {"cpu": ()}

    # The page is left open and not looked at: the browser's own notification says that it is her turn.
    said: list[str] = []
    page.context.grant_permissions(["notifications"], origin=module_lab.url)
    page.expose_function("heard", lambda text: said.append(text))
    page.add_init_script(LOOKS_AWAY)
    ana.open("/hub/line")
    expect(page.get_by_text("You will be notified while this page is open.")).to_be_visible()
    module_lab.stop_lab("bo", bo_token, "train")
    wait_until_ready(page)
    assert said == ["It is your turn: your lab is starting."]
    assert {len(lease.gpus) for lease in module_lab.leases() if lease.holder.server == ""} == {1}


def test_a_ticket_can_be_cancelled_and_fewer_taken(module_lab: HubProcess, visitor: Visitors):
    module_lab.start_lab("bo", module_lab.token("bo"), "gpu-1", "train")
    ana = visitor()
    page = ana.page
    ana.log_in(module_lab.token("ana"))
    ana.expect_status(409)
    ana.start("gpu-2", "/hub/spawn/ana")
    page.wait_for_url("**/hub/line")
    page.get_by_role("button", name="Cancel this ticket").click()
    expect(page.get_by_text("You do not wait for a GPU.")).to_be_visible()

    ana.start("gpu-2", "/hub/spawn/ana")
    page.wait_for_url("**/hub/line")
    page.set_viewport_size({"width": 400, "height": 860})
    page.emulate_media(color_scheme="dark")
    page.reload()
    expect(page.get_by_role("button", name="Take 1 GPU now")).to_be_visible()
    assert_fits(page)
    ana.assert_accessible()
    ana.shoot("line-phone", full_page=True)
    page.set_viewport_size({"width": 1200, "height": 860})
    page.get_by_role("button", name="Take 1 GPU now").click()
    wait_until_ready(page)
    assert {lease.profile: len(lease.gpus) for lease in module_lab.leases() if lease.holder.user == "ana"} == {"gpu-1": 1}


def test_wrong_token_is_told_in_a_sentence(visitor: Visitors):
    stranger = visitor()
    page = stranger.page
    stranger.expect_status(403)
    stranger.open("/hub/login")
    page.get_by_label("Access token").fill("not-a-token")
    page.get_by_role("button", name="Log in").click()
    error = page.get_by_role("alert")
    expect(error).to_be_visible()
    assert error.inner_text().strip().endswith("."), "a sentence"
    expect(page.get_by_label("Access token")).to_have_value("")


def test_token_can_be_shown_and_is_trimmed(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    field = ana.page.get_by_label("Access token")
    ana.open("/hub/login")
    field.fill(f"  {module_lab.token('ana')}\t")
    ana.page.get_by_role("button", name="Show").click()
    expect(field).to_have_attribute("type", "text")
    ana.page.keyboard.press("Enter")
    ana.page.wait_for_url("**/hub/home")


def test_profile_that_the_host_cannot_give_is_greyed_out_with_the_reason(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    ana.log_in(module_lab.token("ana"))
    ana.open("/hub/spawn/ana")
    card = ana.page.locator(".lab-profile", has=ana.page.locator("input[value=reference]"))
    cpus = module_lab.config.profiles["reference"].cpus
    expect(card.locator("input")).to_be_disabled()
    expect(card).to_contain_text(f"Not available. The profile 'Reference' needs {cpus:g} CPUs (this host has ")


def test_start_can_be_cancelled(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    page = ana.page
    ana.log_in(module_lab.token("ana"))
    page.get_by_label("Its name").fill("try-1")
    page.get_by_role("button", name="Choose a profile").click()
    expect(page.get_by_role("heading", name="Start the lab “try-1”")).to_be_visible()
    page.get_by_label("1 GPU", exact=True).check()
    page.get_by_role("button", name="Start", exact=True).click()
    # A lab whose processes stand still never answers: the start stays pending for as long as the test needs.
    found = module_lab.wait_for(module_lab.containers, 30, "the container")
    module_lab.engine.client.pause(found[0]["Id"])
    watch_start(page)
    page.get_by_role("button", name="Cancel the start").click()
    page.wait_for_url("**/hub/spawn/ana/try-1", timeout=SLOW)
    expect(page.get_by_text("2 of 2 GPUs free")).to_be_visible(timeout=SLOW)
    assert not module_lab.leases()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_a_telephone(module_lab: HubProcess, visitor: Visitors, dark: bool):
    ana = visitor(width=400, dark=dark)
    ana.open("/hub/login")
    assert_fits(ana.page)
    ana.log_in(module_lab.token("ana"))
    for path in ("/hub/home", "/hub/token", "/hub/line", "/hub/usage", "/hub/gpus", "/hub/spawn/ana"):
        ana.open(path)
        assert_fits(ana.page)
    if dark:
        ana.shoot("profiles-phone", full_page=True)
    theme = ana.page.evaluate("getComputedStyle(document.body).colorScheme || document.documentElement.dataset.bsTheme")
    assert ("dark" in theme) == dark


def assert_fits(page: Page) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px wider than the window"


def test_form_works_by_keyboard_alone(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    ana.log_in(module_lab.token("ana"))
    ana.open("/hub/spawn/ana")
    ana.page.locator("input[name=profile]:checked").focus()
    ana.page.keyboard.press("ArrowDown")
    chosen = ana.page.locator("input[name=profile]:checked")
    expect(chosen).to_be_focused()
    assert chosen.get_attribute("value") != "cpu"
    ana.page.keyboard.press("Tab")
    expect(ana.page.get_by_role("button", name="Start", exact=True)).to_be_focused()


def test_jupyterhubs_own_pages_run_under_the_lab_policy(module_lab: HubProcess, visitor: Visitors):
    root = visitor()
    root.log_in(module_lab.token("root", admin=True))
    root.open("/hub/admin")
    expect(root.page.locator("#react-admin-hook").get_by_text("root", exact=True).first).to_be_visible()
    root.shoot("admin")
    root.open("/hub/token")
    # JupyterHub's script comes by a loader, later than the page.
    module_lab.wait_for(lambda: root.page.evaluate("window._jupyterhub_page_loaded"), 20, "the script of the page of tokens")
    root.shoot("tokens", full_page=True)
    root.page.get_by_role("button", name="Request new API token").click()
    expect(root.page.locator("#token-result")).not_to_be_empty()


def test_a_lab_that_does_not_run_says_so_and_leads_to_the_form(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    ana.log_in(module_lab.token("ana"))
    ana.expect_status(424)
    ana.open("/user/ana/lab")
    expect(ana.page.get_by_role("heading", name="Your lab is not running")).to_be_visible()
    ana.assert_accessible()
    ana.shoot("not-running", clip=TOP)
    ana.page.get_by_role("button", name="Start it").click()
    ana.page.wait_for_url("**/hub/spawn/ana**")
    expect(ana.page.get_by_role("heading", name="Start your lab")).to_be_visible()


def test_a_lab_that_is_stopping_says_so_and_goes_on(module_lab: HubProcess, visitor: Visitors):
    token = module_lab.token("ana")
    module_lab.start_lab("ana", token, "cpu")
    (found,) = module_lab.containers()
    # A server that stands still does not end when asked: the stop takes as long as lab.yaml grants.
    children = "map(int, open('/proc/1/task/1/children').read().split())"
    freeze = f"import os, signal; [os.kill(pid, signal.SIGSTOP) for pid in {children}]"
    module_lab.run_inside(found["Id"], "python", "-c", freeze)
    ana, other = visitor(), visitor()
    for one in (ana, other):
        one.log_in(token)
        one.expect_status(404)
    ana.page.get_by_role("button", name="Stop").click()
    module_lab.wait_for(lambda: (module_lab.server_model("ana", token) or {}).get("pending") == "stop", 20, "the stop to begin")
    other.open("/hub/spawn-pending/ana")
    expect(other.page.get_by_role("heading", name="Stopping your lab")).to_be_visible()
    other.shoot("stopping", clip=TOP)
    expect(other.page.get_by_role("heading", name="Your lab is not running")).to_be_visible(timeout=SLOW)


@pytest.mark.parametrize(
    ("path", "picture"),
    [("/hub/nowhere", "not-found"), ("/hub/spawn/ana/Not_A_Name", "error"), ("/hub/spawn/nobody", "")],
)
def test_wrong_address_is_explained_without_a_traceback(module_lab: HubProcess, visitor: Visitors, path: str, picture: str):
    ana = visitor()
    for status in (400, 404):
        ana.expect_status(status)
    ana.log_in(module_lab.token("ana"))
    ana.open(path)
    expect(ana.page.get_by_role("alert")).to_be_visible()
    expect(ana.page.get_by_role("link", name="My labs").last).to_be_visible()
    if picture:
        ana.assert_accessible()
        ana.shoot(picture, clip=TOP)
    assert "Traceback" not in ana.page.content()

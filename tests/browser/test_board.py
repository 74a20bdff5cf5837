"""The board in a real browser, with two people at once: it lives, an admin acts on it, and everybody can use it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from spawner.ledger import Ledger
from spawner.model import Holder
from spawner.records import Tally
from tests.browser.conftest import Visitor
from tests.browser.jupyterlab import SLOW, wait_until_ready
from tests.support.hub import GPU_A, GPU_B, HubProcess

Visitors = Callable[..., Visitor]


@pytest.fixture(autouse=True)
def nothing_left(module_lab: HubProcess) -> Iterator[None]:
    """Every test finds and leaves a lab without leases, tickets, marks and maintenance."""
    yield
    root = module_lab.token("root", admin=True)
    module_lab.api("DELETE", "/gpus/maintenance", root)
    board = module_lab.api("GET", "/gpus", root).json()
    for ticket in board["line"]:
        module_lab.api("DELETE", f"/gpus/tickets/{ticket['id']}", root)
    for gpu in board["gpus"]:
        if gpu["out"]:
            module_lab.api("DELETE", f"/gpus/marks/{gpu['out']['subject']}", root)
    for lease in module_lab.leases():
        module_lab.stop_lab(lease.holder.user, root, lease.holder.server)


def at_the_board(visitor: Visitor, *, admin: bool = False) -> Page:
    """A person who looks at the board, live."""
    name = "root" if admin else "ana"
    visitor.log_in(visitor.hub.token(name, admin=admin))
    visitor.page.get_by_role("link", name="GPUs").click()
    expect(visitor.page.locator("#live")).to_contain_text("Live · last update")
    return visitor.page


def note_a_day(hub: HubProcess) -> None:
    """What would be counted in a day: nothing at night, both GPUs by day, and some who wait at noon."""
    now = datetime.now(timezone.utc)
    opened = Ledger.open(hub.config.ledger_url)
    try:
        for minutes in range(24 * 60, 0, -10):
            at = now - timedelta(minutes=minutes)
            held = 0 if minutes > 15 * 60 else 1 if minutes > 11 * 60 else 2
            waiting = 2 if 4 * 60 < minutes < 7 * 60 else 0
            opened.tally(Tally(at, total=2, held=held, idle=int(minutes < 3 * 60), out=0, waiting=waiting, busy=40.0 * held))
    finally:
        opened.close()


def words_of(page: Page, uuid: str):
    return page.locator(f".board-gpu[data-id='{uuid}'] [data-field=words]")


def test_a_change_is_seen_by_two_people_without_a_reload(module_lab: HubProcess, visitor: Visitors):
    # Before the first look: the picture of a day is kept for a minute.
    note_a_day(module_lab)
    ana, root = visitor(), visitor()
    mine, admins = at_the_board(ana), at_the_board(root, admin=True)
    for page in (mine, admins):
        page.evaluate("window.sameDocument = true")
        expect(page.get_by_text("2 of 2 GPUs free, nobody in line.")).to_be_visible()

    bo = module_lab.token("bo")
    module_lab.start_lab("bo", bo, "gpu-2", "night-run")
    expect(words_of(admins, GPU_A)).to_have_text("held by bo (lab “night-run”)")
    expect(words_of(mine, GPU_A)).to_have_text("held")
    assert "bo" not in mine.locator("#gpus").inner_text()

    assert module_lab.post_lab("ana", module_lab.token("ana"), {"profile": "gpu-1"}).status_code == 409
    expect(mine.locator(".board-ticket")).to_contain_text("you (default lab): 1 GPU")
    expect(admins.locator(".board-ticket")).to_contain_text("ana (default lab): 1 GPU")
    expect(mine.locator("#news")).to_contain_text("0 of 2 GPUs free, 1 request in line.", timeout=10_000)
    expect(admins.get_by_role("img", name="In the last 24 hours")).to_be_visible()
    root.assert_accessible()
    root.shoot("board", full_page=True)
    ana.shoot("board-engineer", full_page=True)

    mine.get_by_role("button", name="Cancel the request").click()
    mine.get_by_role("dialog").get_by_role("button", name="Cancel the request").click()
    expect(admins.get_by_text("Nobody waits.")).to_be_visible()
    module_lab.stop_lab("bo", bo, "night-run")
    for page in (mine, admins):
        expect(page.locator("#headline")).to_have_text("2 of 2 GPUs free, nobody in line.")
        assert page.evaluate("window.sameDocument"), "the page was loaded again"


def wait_in_line(one: Visitor, name: str) -> Page:
    """A person who asks for a GPU while none is free."""
    one.log_in(one.hub.token(name))
    one.expect_status(409)
    one.start("gpu-1", f"/hub/spawn/{name}")
    one.page.wait_for_url("**/hub/line")
    return one.page


def standing(page: Page, number: int, length: int) -> None:
    expect(page.get_by_role("heading", name=f"Number {number} of {length} in line")).to_be_visible()


def test_admin_moves_a_ticket_and_all_who_wait_see_it(module_lab: HubProcess, visitor: Visitors):
    module_lab.start_lab("bo", module_lab.token("bo"), "gpu-2")
    # Who used nothing yet: only age counts between them.
    dia, eli = (wait_in_line(visitor(), name) for name in ("dia", "eli"))
    page = at_the_board(visitor(), admin=True)
    tickets = page.locator(".board-ticket")
    standing(dia, 1, 2)
    standing(eli, 2, 2)
    expect(tickets).to_contain_text(["dia", "eli"])

    tickets.last.get_by_role("button", name="To the front").click()
    dialog = page.get_by_role("dialog", name="To the front?")
    expect(dialog).to_contain_text("eli (default lab) then goes before everyone else.")
    dialog.get_by_role("button", name="To the front").click()
    expect(tickets).to_contain_text(["eli", "dia"])
    standing(eli, 1, 2)
    standing(dia, 2, 2)

    tickets.first.get_by_role("button", name="In its own place").click()
    page.get_by_role("dialog").get_by_role("button", name="In its own place").click()
    standing(dia, 1, 2)
    dia.get_by_role("button", name="Cancel this ticket").click()
    expect(dia.get_by_text("You do not wait for a GPU.")).to_be_visible()
    standing(eli, 1, 1)
    expect(tickets).to_have_count(1)
    tickets.first.get_by_role("button", name="Cancel the request").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the request").click()
    expect(eli.get_by_text("You do not wait for a GPU.")).to_be_visible()
    expect(page.get_by_text("Nobody waits.")).to_be_visible()


@contextlib.contextmanager
def away(folder: Path) -> Iterator[None]:
    """Within this block a folder of the NAS is not there."""
    elsewhere = folder.rename(folder.with_name(f"{folder.name}-away"))
    try:
        yield
    finally:
        elsewhere.rename(folder)


def test_a_claim_is_seen_by_all_and_becomes_the_lab(module_lab: HubProcess, visitor: Visitors):
    token = module_lab.token("ana")
    module_lab.start_lab("ana", token, "gpu-2")
    ana, root = visitor(), visitor()
    waiting, admins = wait_in_line(visitor(), "bo"), at_the_board(root, admin=True)
    ana.log_in(token)
    # The hub refuses a start while the NAS is away; the claim is kept, and the start asked for again.
    with away(module_lab.config.mounts.models.resolve()):
        ana.page.get_by_role("button", name="Stop").click()
        expect(waiting.get_by_role("heading", name="Your turn: the lab is about to start")).to_be_visible(timeout=SLOW)
        expect(admins.locator("#gpus")).to_contain_text("kept for bo")
        expect(admins.locator(".board-ticket")).to_contain_text("GPUs are kept until")
        ana.open("/hub/gpus")
        expect(ana.page.locator("#gpus")).to_contain_text("kept for someone in line")
        assert "bo" not in ana.page.locator("#gpus").inner_text()
    wait_until_ready(waiting)
    (lease,) = module_lab.leases()
    assert lease.holder == Holder("bo")
    expect(admins.locator("#gpus")).to_contain_text("held by bo")
    expect(admins.get_by_text("Nobody waits.")).to_be_visible()


def test_admin_drains_and_returns_a_gpu_by_keyboard_alone(module_lab: HubProcess, visitor: Visitors):
    root, ana = visitor(), visitor()
    page, other = at_the_board(root, admin=True), at_the_board(ana)
    drain = page.get_by_role("button", name="Drain GPU 0")
    drain.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Drain GPU 0?")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(drain).to_be_focused()

    page.keyboard.press("Enter")
    page.keyboard.type("The fan is loud.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(words_of(page, GPU_A)).to_have_text("drained by an admin: The fan is loud.")
    expect(words_of(other, GPU_A)).to_have_text("drained by an admin: The fan is loud.")
    assert other.get_by_role("button", name="Drain GPU 1").count() == 0

    page.get_by_role("button", name="Return GPU 0").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(words_of(page, GPU_A)).to_have_text("free")


def test_admin_drains_and_returns_a_node(module_lab: HubProcess, visitor: Visitors):
    page, other = at_the_board(visitor(), admin=True), at_the_board(visitor())
    page.get_by_role("button", name="Drain the node").click()
    page.get_by_label("Reason").fill("New memory.")
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    for uuid in (GPU_A, GPU_B):
        expect(words_of(other, uuid)).to_contain_text("New memory.")
    expect(other.locator("#headline")).to_contain_text("0 of 2 GPUs free")
    page.get_by_role("button", name="Return the node").click()
    page.get_by_role("dialog").get_by_role("button", name="Return").click()
    expect(other.locator("#headline")).to_contain_text("2 of 2 GPUs free")


def test_admin_ends_a_lab_with_a_message(module_lab: HubProcess, visitor: Visitors):
    module_lab.start_lab("ana", module_lab.token("ana"), "gpu-1")
    (lease,) = module_lab.leases()
    root = visitor()
    page = at_the_board(root, admin=True)
    page.get_by_role("button", name="End the lab on").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("ana loses what is not saved")
    dialog.get_by_label("Message to its owner").fill("The room is too hot.")
    root.shoot("board-end")
    dialog.get_by_role("button", name="End the lab").click()
    expect(words_of(page, lease.gpus[0])).to_have_text("free", timeout=SLOW)
    opened = Ledger.open(module_lab.config.ledger_url)
    try:
        assert opened.endings(Holder("ana"))[0][2] == "An admin ended this lab: The room is too hot."
        opened.dismiss_endings("ana")
    finally:
        opened.close()


def test_maintenance_is_shown_to_everyone(module_lab: HubProcess, visitor: Visitors):
    root, ana = visitor(), visitor()
    page, other = at_the_board(root, admin=True), at_the_board(ana)
    page.get_by_role("button", name="Begin maintenance").click()
    page.get_by_label("Message, for everyone").fill("New disks.")
    page.get_by_role("dialog").get_by_role("button", name="No new starts").click()
    expect(other.get_by_text("No lab starts right now. New disks.")).to_be_visible()
    page.get_by_role("button", name="End maintenance").click()
    page.get_by_role("dialog").get_by_role("button", name="End maintenance").click()
    expect(other.locator("#maintenance")).to_be_hidden()


def test_form_shows_the_same_numbers_live_and_foretells_the_wait(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    page = ana.page
    ana.log_in(module_lab.token("ana"))
    ana.open("/hub/spawn/ana")
    card = page.locator("[data-profile=gpu-1]")
    expect(card.locator(".lab-wait")).to_have_text("Starts at once.")
    page.get_by_label("1 GPU", exact=True).check()
    module_lab.start_lab("bo", module_lab.token("bo"), "gpu-2")
    expect(page.get_by_text("0 of 2 GPUs free")).to_be_visible()
    expect(card.locator(".lab-shortage")).to_have_text("Needs 1 GPU; none free right now.")
    expect(card.locator(".lab-wait")).to_have_text(re.compile(r"^Expected in (a moment|about .+)\.$"))
    expect(page.locator(".lab-gpu-state").first).to_contain_text("held since")
    expect(page.get_by_label("1 GPU", exact=True)).to_be_checked()


def test_without_the_stream_the_board_asks_and_says_so(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    ana.expect_status(503)
    ana.page.route("**/api/gpus/events*", lambda route: route.fulfill(status=503))
    ana.log_in(module_lab.token("ana"))
    ana.open("/hub/gpus")
    expect(ana.page.locator("#live")).to_contain_text("Asking every 10 seconds · last update", timeout=15_000)
    root = module_lab.token("root", admin=True)
    assert module_lab.api("POST", "/gpus/marks", root, json={"subject": GPU_B, "reason": "new fan"}).status_code == 201
    expect(words_of(ana.page, GPU_B)).to_have_text("drained by an admin: new fan", timeout=15_000)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_board_fits_a_telephone(module_lab: HubProcess, visitor: Visitors, dark: bool):
    module_lab.start_lab("ana", module_lab.token("ana"), "gpu-1", "a-name-that-is-quite-long")
    root = visitor(width=320, dark=dark)
    root.log_in(module_lab.token("root", admin=True))
    root.open("/hub/gpus")
    expect(root.page.locator("#live")).to_contain_text("Live")
    wide = root.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} px wider than the window"
    root.assert_accessible()
    if dark:
        root.shoot("board-phone", full_page=True)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_accessible(module_lab: HubProcess, visitor: Visitors, dark: bool):
    root = visitor(dark=dark)
    page = root.page
    root.open("/hub/login")
    root.assert_accessible()
    root.log_in(module_lab.token("root", admin=True))
    token = module_lab.token("root", admin=True)
    module_lab.start_lab("root", token, "gpu-1", "night-run")
    assert module_lab.api("POST", "/gpus/marks", token, json={"subject": GPU_B, "reason": "new fan"}).ok
    assert module_lab.post_lab("root", token, {"profile": "gpu-1"}).status_code == 409, "a ticket for the page of the line"
    for path in ("/hub/home", "/hub/spawn/root", "/hub/token", "/hub/line", "/hub/usage", "/hub/audit", "/hub/gpus"):
        root.open(path)
        page.wait_for_load_state()
        root.assert_accessible()
    expect(page.locator("#live")).to_contain_text("Live")
    page.get_by_role("button", name="Return GPU").click()
    root.assert_accessible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Begin maintenance").click()
    root.assert_accessible()


def test_progress_page_is_accessible(module_lab: HubProcess, visitor: Visitors):
    ana = visitor()
    page = ana.page
    ana.log_in(module_lab.token("ana"))
    ana.start("gpu-1", "/hub/spawn/ana")
    found = module_lab.wait_for(module_lab.containers, 30, "the container")
    # A lab whose processes stand still never answers: the page stays for as long as the test needs.
    module_lab.engine.client.pause(found[0]["Id"])
    page.wait_for_url("**/hub/spawn-pending/**")
    ana.assert_accessible()
    page.get_by_role("button", name="Cancel the start").click()
    page.wait_for_url("**/hub/spawn/ana", timeout=SLOW)

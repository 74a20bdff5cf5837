"""The pages of usage and of the journal in a real browser: pictures without a script, on a phone, in the dark, by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from spawner.ledger import Ledger
from spawner.model import GpuRequest, Holder
from spawner.records import Grant
from tests.browser.conftest import Visitor
from tests.support.hub import GPU_A, GPU_B, HubProcess

Visitors = Callable[..., Visitor]
PEOPLE = (("ana", "vision"), ("bo", "vision"), ("cem", "night"), ("dia", ""))


@pytest.fixture(scope="module")
def worked(module_lab: HubProcess) -> HubProcess:
    """A lab that was used for a week: four people in turn, some of it idle."""
    ledger = Ledger.open(module_lab.config.ledger_url)
    now = datetime.now(timezone.utc)
    try:
        for number in range(28):
            user, group = PEOPLE[(3 * number + number // 5) % 4]
            began = now - timedelta(hours=6 * (28 - number))
            uuids = (GPU_A, GPU_B)[: 1 + number % 2]
            lease_id = f"{number:032x}"
            ledger.acquire(
                GpuRequest(f"gpu-{len(uuids)}", len(uuids)), Holder(user), [], lease_id=lease_id, now=began,
                admit=lambda request, *_, group=group: Grant(request, groups=(group,) if group else ()),
                choose=lambda *_, uuids=uuids: uuids,
            )  # fmt: skip
            ledger.add_idle([(lease_id, 1800.0 * (number % 5))])
            ledger.release(lease_id, began + timedelta(hours=2 + number % 4), "the container is gone")
    finally:
        ledger.close()
    return module_lab


@pytest.mark.parametrize(("width", "dark", "picture"), [(1200, False, "usage"), (400, True, "usage-phone")])
def test_usage_is_seen_in_pictures_and_numbers(worked: HubProcess, visitor: Visitors, width: int, dark: bool, picture: str):
    one = visitor(width=width, dark=dark)
    one.log_in(worked.token("root", admin=True))
    one.open("/hub/usage?by=user")
    page = one.page
    for title in ("GPU-hours over time", "GPU-hours by person"):
        drawn = page.get_by_role("img", name=title)
        assert drawn.bounding_box()["width"] > 200
    assert page.locator("#usage tbody tr").count() == 4
    one.assert_accessible()
    one.shoot(picture, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    page.get_by_label("By", exact=True).select_option("gpu")
    page.get_by_role("button", name="Show").press("Enter")
    page.wait_for_url("**by=gpu**")
    assert GPU_A in page.locator("#usage").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert download.value.suggested_filename.startswith("usage-by-gpu-")


def test_an_engineer_sees_only_their_own_use(worked: HubProcess, visitor: Visitors):
    one = visitor()
    one.log_in(worked.token("cem"))
    one.page.get_by_role("link", name="Usage").click()
    one.page.wait_for_url("**/hub/usage")
    assert one.page.get_by_role("heading", level=1).inner_text() == "Your usage"
    assert one.page.get_by_role("link", name="Journal").count() == 0
    assert "ana" not in one.page.locator("main").inner_text()


def test_the_journal_pages_and_filters(worked: HubProcess, visitor: Visitors):
    one = visitor()
    one.log_in(worked.token("root", admin=True))
    one.open("/hub/usage")
    one.page.get_by_role("link", name="Journal").click()
    one.page.get_by_label("Since").fill("30d")
    one.page.get_by_label("Person").fill("dia")
    one.page.get_by_role("button", name="Show").click()
    one.page.wait_for_url("**user=dia**")
    rows = one.page.locator("#journal tbody tr")
    assert rows.count() > 0
    assert all("dia" in text for text in rows.all_inner_texts())
    one.assert_accessible()
    one.shoot("journal")

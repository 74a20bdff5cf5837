"""The parts of a notebook that answer, in a real lab and by keyboard alone: panel, threshold, masks, labels, and a training
that is still watched after a reload of the page.

One lab and one window for all; the tests go through the notebook from its top to its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import AXE, Visitor
from tests.browser.jupyterlab import SLOW, Notebook, open_notebook
from tests.browser.widgets_notebook import CELLS, LABELS, MASKS, MONITOR, PANEL, THRESHOLD, WAIT, notebook
from tests.support.hub import HubProcess

NAME = "widgets.ipynb"
MOST_TABS = 12


class Part:
    """One cell of the notebook and what it shows."""

    def __init__(self, opened: Notebook, source: str) -> None:
        self.page: Page = opened.page
        self.cell = opened.panel.locator(".jp-CodeCell").nth(CELLS.index(source))
        self.output = self.cell.locator(".jp-OutputArea-output")

    def enter(self) -> None:
        """Select the cell, as whoever wants to go on from it by Tab."""
        self.cell.locator(".cm-content").click()
        self.page.keyboard.press("Escape")

    def tab_to(self, wanted: Locator) -> None:
        """Press Tab until the part has the focus."""
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            if wanted.evaluate("node => node === document.activeElement"):
                return
        raise AssertionError(f"no Tab leads to {wanted}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def shoot(self, visitor: Visitor, name: str) -> None:
        """Keep a picture with this part at the top of the notebook."""
        self.cell.evaluate("node => node.scrollIntoView({ block: 'start' })")
        visitor.shoot(name)

    def shown(self, pattern: str) -> str:
        """What the output says there. A browser gives no text of what lies beyond the window's edge."""
        self.cell.scroll_into_view_if_needed()
        expect(self.output).to_contain_text(re.compile(pattern), timeout=SLOW, use_inner_text=True)
        found = re.search(pattern, self.output.inner_text())
        assert found
        return found[1] if found.groups() else found[0]


@pytest.fixture(scope="module")
def ana(module_lab: HubProcess, browser: Browser, screenshots) -> Iterator[Visitor]:
    token = module_lab.token("ana")
    module_lab.start_lab("ana", token, "gpu-1")
    content = {"type": "notebook", "content": notebook()}
    headers = {"Authorization": f"token {token}"}
    answer = module_lab.session.put(f"{module_lab.url}/user/ana/api/contents/{NAME}", json=content, headers=headers, timeout=30)
    assert answer.ok, answer.text
    context = browser.new_context(viewport={"width": 1200, "height": 860}, reduced_motion="reduce", timezone_id="UTC")
    visitor = Visitor(context.new_page(), module_lab, screenshots)
    visitor.log_in(token)
    yield visitor
    context.close()


@pytest.fixture(scope="module")
def opened(ana: Visitor) -> Notebook:
    """The notebook, run up to the training that goes on."""
    found = open_notebook(ana.page, f"{ana.hub.url}/user/ana", NAME)
    found.run_code_cells(len(CELLS) - 1)
    return found


def test_the_panel_is_live_and_says_that_its_gpu_is_simulated(opened: Notebook) -> None:
    part = Part(opened, PANEL)
    part.shown("1 simulated GPU: there is no device behind it")
    part.shown(r"memory\s+\d\.\d\d of \d\.\d GiB")
    before = part.output.inner_text()
    expect(part.output).not_to_have_text(before, timeout=SLOW, use_inner_text=True)


def test_the_threshold_moves_by_keyboard_and_shows_who_changes_sides(opened: Notebook, ana: Visitor) -> None:
    part = Part(opened, THRESHOLD)
    slider, images = part.output.get_by_role("slider"), part.output.locator("img")
    recall, alarm = part.shown(r"recall\s+([\d.]+)%"), part.shown(r"alarm from\s+([\d.]+)")
    part.shown(r"0 images changed sides")
    part.enter()
    part.tab_to(slider)
    part.press("ArrowRight", "ArrowRight", "ArrowRight")
    # At least one image per step.
    assert int(part.shown(r"([3-9]|\d\d+) images changed sides against")) == images.count()
    assert float(part.shown(r"alarm from\s+([\d.]+)")) > float(alarm)
    assert float(part.shown(r"recall\s+([\d.]+)%")) < float(recall)
    assert {text.split(", ")[-1] for text in part.output.locator("figcaption").all_inner_texts()} == {"no alarm now"}
    assert images.first.evaluate("image => image.complete && image.naturalWidth") > 0
    expect(slider).to_be_focused()

    part.press("Home")
    part.shown(r"recall\s+100\.0%")
    assert part.shown(r"precision\s+([\d.]+)%") == "50.0"
    part.shown("raise an alarm only now")
    part.tab_to(part.output.get_by_role("button", name="Compare from here"))
    part.press("Space")
    part.shown("0 images changed sides")
    part.press("Shift+Tab", "PageUp")
    part.shown("5 images changed sides")
    assert_accessible(part)
    part.shoot(ana, "threshold")


def test_masks_are_flipped_through_by_keyboard(opened: Notebook) -> None:
    part = Part(opened, MASKS)
    pictures, number = part.output.locator("img"), part.output.get_by_role("slider").first
    title, drawn = part.shown(r"\S+\.png: \w+, score 0\.\d+"), pictures.last.get_attribute("src")
    part.enter()
    part.tab_to(number)
    part.press("ArrowRight")
    expect(part.output).not_to_contain_text(title)
    assert pictures.last.get_attribute("src") != drawn
    part.press("ArrowLeft")
    expect(part.output).to_contain_text(title)

    part.tab_to(part.output.get_by_role("combobox"))
    part.press("End")
    part.shown(r"(?!good)\w+, score")
    expect(number).to_have_attribute("aria-valuemax", "96.0")
    outlined = pictures.last.get_attribute("src")
    part.tab_to(part.output.get_by_role("checkbox", name="Outline of the mask"))
    part.press("Space")
    expect(pictures.last).not_to_have_attribute("src", str(outlined))
    assert_accessible(part)


def test_images_are_labelled_by_keyboard_and_each_word_is_kept(opened: Notebook, ana: Visitor) -> None:
    part = Part(opened, LABELS)
    part.shown("Image 1 of 5")
    part.enter()
    part.tab_to(part.output.get_by_role("textbox"))
    part.press("g")
    part.shown("Image 2 of 5")
    part.press("d", "d", "s")
    part.shown("4 of 5 looked at, 3 labelled")
    part.shoot(ana, "labelling")
    # Twice d is what deletes a cell elsewhere in a notebook.
    expect(opened.panel.locator(".jp-CodeCell")).to_have_count(len(CELLS))
    part.press("Backspace", "Backspace")
    part.shown("2 of 5 looked at, 2 labelled")
    part.tab_to(part.output.get_by_role("button", name="Skip (s)"))
    part.press("Space")
    part.shown("3 of 5 looked at, 2 labelled")
    assert_accessible(part)
    lines = ana.hub.run_inside(ana.hub.containers()[0]["Id"], "cat", "/home/engineer/labels.jsonl").splitlines()
    decisions = [json.loads(line) for line in lines[1:]]
    assert [(told["defective"], told["by"]) for told in decisions] == [(x, "ana") for x in (False, True, True, None)]
    assert len({told["file"] for told in decisions}) == 3


def test_a_training_is_watched_on_after_a_reload_while_the_notebook_waits_for_it(opened: Notebook, ana: Visitor) -> None:
    part, waits, page = Part(opened, MONITOR), Part(opened, WAIT), ana.page
    epoch = r"Running: epoch (\d+) of 1800, .* to go"
    part.shown(epoch)
    page.keyboard.press("Control+s")
    expect(page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")).to_have_count(0)
    waits.enter()
    part.press("Control+Enter")
    expect(waits.cell.locator(".jp-InputArea-prompt").first).to_have_text("[*]:")
    before = int(part.shown(epoch))

    page.once("dialog", lambda dialog: dialog.accept())
    page.reload(wait_until="commit")
    part.output.get_by_role("progressbar").or_(part.output.locator(".progress")).first.wait_for(timeout=SLOW)
    after = int(part.shown(epoch))
    assert after >= before
    part.cell.scroll_into_view_if_needed()
    page.wait_for_function(
        "([node, epoch]) => Number(/epoch (\\d+) of/.exec(node.innerText)?.[1]) > epoch + 1",
        arg=[part.output.element_handle(), after],
        timeout=SLOW,
    )
    part.shoot(ana, "training")
    # The kernel answers while a cell waits: what is still going on can be stopped.
    part.enter()
    part.tab_to(part.output.get_by_role("button", name="Stop"))
    part.press("Space")
    part.shown("Stopped: epoch")


def assert_accessible(part: Part) -> None:
    """Axe finds nothing in a part. ipywidgets ties its labels to no slider and no field, which only ipywidgets can mend."""
    part.page.evaluate(AXE.read_text("utf-8"))
    rules = {name: {"enabled": False} for name in ("aria-input-field-name", "label", "select-name")}
    run = "([node, rules]) => axe.run(node, { preload: false, rules })"
    found = part.page.evaluate(run, [part.output.first.element_handle(), rules])
    told = [f"{v['id']}: {v['help']}: {[node['html'][:200] for node in v['nodes']]}" for v in found["violations"]]
    assert not told, "\n".join(told)
    assert len(found["passes"]) > 3, "axe has looked at next to nothing"

"""What the tests do inside JupyterLab: open a notebook and run cells by keyboard, as a person does."""

from __future__ import annotations

import time

from playwright.sync_api import Locator, Page, WebSocket

# A cold JupyterLab on two shared cores takes its time; in milliseconds.
SLOW = 120_000


class Notebook:
    """An open notebook whose kernel is ready."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.panel = page.locator(".jp-NotebookPanel:visible")

    @property
    def active(self) -> Locator:
        """The selected cell."""
        return self.panel.locator(".jp-Cell.jp-mod-active")

    def run_code_cells(self, number: int) -> Locator:
        """Run the notebook's first code cells, each until it has ended without an error; the last of them."""
        for index in range(number):
            cell = self.panel.locator(".jp-CodeCell").nth(index)
            cell.locator(".cm-content").click()
            self._run(cell)
        return cell

    def run(self, code: str) -> str:
        """Add a cell below the selected one, run it, and return what it printed."""
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(code)
        cell = self.active
        self._run(cell)
        return cell.locator(".jp-OutputArea-output").inner_text().strip()

    def _run(self, cell: Locator) -> None:
        # Control and Enter keeps the cell selected, so that it can be looked at afterwards.
        self.page.keyboard.press("Control+Enter")
        # The prompt is [*] while the cell runs, and its number afterwards.
        prompt = cell.locator(".jp-InputArea-prompt").first.element_handle()
        self.page.wait_for_function("node => /^\\[\\d+\\]:$/.test(node.textContent.trim())", arg=prompt, timeout=SLOW)
        outputs = cell.locator(".jp-OutputArea-output").all_inner_texts()
        assert not any("Traceback (most recent call last)" in text for text in outputs), outputs


def wait_until_ready(page: Page) -> None:
    """Wait until JupyterLab has drawn itself."""
    # Not until "load": that waits for whatever a page fetches, and what counts here is what the person sees.
    page.wait_for_url("**/user/**/lab**", wait_until="commit", timeout=SLOW)
    page.locator("#jp-main-dock-panel").wait_for(timeout=SLOW)
    page.locator(".jp-Launcher, .jp-NotebookPanel").first.wait_for(timeout=SLOW)


def open_notebook(page: Page, url: str, path: str) -> Notebook:
    """Open a notebook by its address and wait for its kernel."""
    heard: list[bool] = []

    def listen(socket: WebSocket) -> None:
        if "/api/kernels/" in socket.url:
            socket.on("framereceived", lambda frame: heard.append(True) if _says_idle(frame) else None)

    page.on("websocket", listen)
    page.goto(f"{url}/lab/tree/{path}", wait_until="commit", timeout=SLOW)
    tab = page.locator(f'.lm-TabBar-tab.jp-mod-current:has-text("{path.rsplit("/", 1)[-1][:20]}")')
    dialog = page.locator(".jp-Dialog")
    tab.or_(dialog).first.wait_for(timeout=SLOW)
    assert not dialog.count(), f"JupyterLab says: {dialog.inner_text()}"
    # The notebook calls its kernel idle before there is one, and forgets what is run until then. The kernel's own word
    # counts; Playwright hands frames out only while it is waiting for something.
    until = time.monotonic() + SLOW / 1000
    while not heard:
        assert time.monotonic() < until, f"the kernel of {path} has not become idle"
        page.wait_for_timeout(50)
    notebook = Notebook(page)
    notebook.panel.locator('[data-status="idle"]').first.wait_for(timeout=SLOW)
    return notebook


def _says_idle(frame: bytes | str) -> bool:
    return b'"idle"' in (frame.encode() if isinstance(frame, str) else frame)

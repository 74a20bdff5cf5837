"""The distribution's Chromium, driven by Playwright, on a real hub.

    visitor    makes a browser window for one person; whatever its console complains about fails the test

Screenshots go to pytest's temporary folder, or to `docs/screenshots/` where GPULAB_WRITE_SCREENSHOTS=1 asks for it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from spawner.engine import Engine
from tests.support.hub import REPO, HubProcess, make_lab_files, remove_docker_objects

# Chromium as a package of the distribution: it must not look for updates, and has no sandbox where tests run as root.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
WRITE_SCREENSHOTS = os.environ.get("GPULAB_WRITE_SCREENSHOTS") == "1"
AXE = REPO / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Visitor:
    """One person at one browser window of the lab."""

    def __init__(self, page: Page, hub: HubProcess, screenshots: Path) -> None:
        self.page = page
        self.hub = hub
        self.complaints: list[str] = []
        self.expected: set[str] = set()
        self._screenshots = screenshots
        page.set_default_timeout(30_000)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self._complain(page.url, str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complain(message.location.get("url") or self.page.url, message.text)

    def _complain(self, where: str, text: str) -> None:
        # JupyterLab's own pages and files are not ours to judge.
        ours = "/hub/" in self.page.url and "/user/" not in where
        if ours and not any(status in text for status in self.expected):
            self.complaints.append(f"{self.page.url}: {text}")

    def expect_status(self, status: int) -> None:
        """The browser will note this status of a page in its console, and that is right."""
        self.expected.add(f"status of {status}")

    def open(self, path: str) -> None:
        """Go to a path below the hub's address."""
        self.page.goto(self.hub.url + path)

    def log_in(self, token: str) -> None:
        """Log in by token, from the login page."""
        self.open("/hub/login")
        self.page.get_by_label("Access token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/hub/home")

    def start(self, profile: str, path: str) -> None:
        """Choose a profile on the form at `path` and press Start."""
        self.open(path)
        self.page.locator(f"input[name=profile][value={profile}]").check()
        self.page.get_by_role("button", name="Start", exact=True).click()

    def assert_accessible(self) -> None:
        """axe finds nothing on the page as it is now: WCAG 2.2 A and AA, and its good practices."""
        assert AXE.exists(), f"{AXE} is missing; run `scripts/setup.sh browser`"
        # Evaluated by the debugger and not as an element of the page, which the Content-Security-Policy would forbid.
        self.page.evaluate(AXE.read_text("utf-8"))
        # Without `preload` it does not fetch the stylesheets again, and what they import.
        found = self.page.evaluate("() => axe.run(document, { preload: false })")
        told = [f"{v['id']}: {v['help']}: {[node['html'][:200] for node in v['nodes']]}" for v in found["violations"]]
        assert not told, f"{self.page.url}\n" + "\n".join(told)
        assert len(found["passes"]) > 10, "axe has looked at next to nothing"

    def shoot(self, name: str, **options: Any) -> None:
        """Keep a picture of the window."""
        self._screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._screenshots / f"{name}.png", **options)


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory, engine: Engine, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    """One hub for all tests of the suite; for pictures, with the profiles as they are shipped."""
    files = make_lab_files(tmp_path_factory.mktemp("lab"))
    if WRITE_SCREENSHOTS:
        files.edit(profiles=yaml.safe_load((REPO / "lab.yaml").read_text())["profiles"])
    failed_before = request.session.testsfailed
    hub = HubProcess(files, engine)
    try:
        hub.start()
        yield hub
    finally:
        if request.session.testsfailed > failed_before or not hub.answering():
            hub.print_evidence()
        hub.stop()
        remove_docker_objects(engine, files.name)


@pytest.fixture(scope="module")
def browser(module_lab: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, f"none of {', '.join(PROGRAMS)} is installed; run `make test`, which installs Chromium"
    quiet = tmp_path_factory.mktemp("browser") / "chromium"
    words = [sys.executable, str(Path(__file__).with_name("quiet_network.py")), str(module_lab.config.hub.port), program]
    quiet.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    quiet.chmod(0o755)
    # Playwright keeps an event loop running as long as it is open; other suites of the same process need theirs.
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=quiet, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if WRITE_SCREENSHOTS:
        return REPO / "docs" / "screenshots"
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture
def visitor(
    browser: Browser, module_lab: HubProcess, tmp_path: Path, screenshots: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Visitor]]:
    """Opens a window of its own per call: `visitor(width=400, dark=True)`."""
    opened: list[Visitor] = []
    failed_before = request.session.testsfailed

    def make(*, width: int = 1200, dark: bool = False) -> Visitor:
        context = browser.new_context(
            viewport={"width": width, "height": 860},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            timezone_id="UTC",
        )
        opened.append(Visitor(context.new_page(), module_lab, screenshots))
        return opened[-1]

    yield make
    complaints = [text for one in opened for text in one.complaints]
    for number, one in enumerate(opened):
        if complaints or request.session.testsfailed > failed_before:
            picture = tmp_path / f"failed-{number}.png"
            one.page.screenshot(path=picture)
            print(f"--- {one.page.url} looked like {picture}")
        one.page.context.close()
    assert not complaints, "the browser's console complains:\n" + "\n".join(complaints)

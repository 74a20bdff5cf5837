"""Fixtures: a real hub that needs no Docker engine, and browsers that come from addresses of their own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from requests.adapters import HTTPAdapter

from tests.support.hub import REPO, free_ports

HERE = Path(__file__).parent


class AuthHub:
    """A hub process with the token sign-in and stand-ins for labs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "hub.log"
        self.cli_token = secrets.token_hex(32)
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("secrets", "state"):
            (folder / ".lab" / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ".lab" / "secrets" / "cli_token").write_text(self.cli_token)
        (folder / ".lab" / "state" / "hub.url").write_text(self.url + "\n")
        lab = yaml.safe_load((REPO / "lab.yaml").read_text())
        (folder / "lab.yaml").write_text(yaml.safe_dump(lab))

    def start(self) -> None:
        local = REPO / ".proxy" / "node_modules" / ".bin" / "configurable-http-proxy"
        proxy = str(local) if local.exists() else shutil.which("configurable-http-proxy")
        assert proxy, "configurable-http-proxy is missing; run `make setup`"
        env = {
            **os.environ,
            "TEST_PORT": str(self.port),
            "TEST_PROXY_PORT": str(free_ports()),
            "TEST_SECRETS": str(self.folder / ".lab" / "secrets"),
            "TEST_PROXY": proxy,
            "CONFIGPROXY_AUTH_TOKEN": "p" * 32,
            "PYTHONPATH": str(REPO),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")],
                cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.answering():
            assert self.process.poll() is None, f"the hub ended:\n{self.log_text()}"
            assert time.monotonic() < deadline, f"the hub did not answer:\n{self.log_text()}"
            time.sleep(0.1)

    def answering(self) -> bool:
        try:
            return requests.get(f"{self.url}/hub/api", timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(timeout=10)

    def log_text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    # --- the door of `gpulab token` ----

    def sign_in(self, method: str, name: str, **body: Any) -> requests.Response:
        return requests.request(
            method,
            f"{self.url}/hub/api/gpulab/sign-in/{name}",
            headers={"Authorization": f"token {self.cli_token}"},
            json=body or None,
            timeout=20,
        )

    def token(self, name: str, **body: Any) -> str:
        answer = self.sign_in("POST", name, **body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def api(self, method: str, path: str, token: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 20)
        return requests.request(method, f"{self.url}/hub/api{path}", headers={"Authorization": f"token {token}"}, **kwargs)


class _From(HTTPAdapter):
    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **kwargs)


class Browser:
    """Keeps cookies and posts the login form, as a browser does.

    Attributes:
        address: loopback address it comes from; the hub counts wrong tokens per address.
    """

    def __init__(self, hub: AuthHub, address: str) -> None:
        self.hub = hub
        self.address = address
        self.http = requests.Session()
        self.http.mount("http://", _From(address))

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("allow_redirects", False)
        return self.http.get(f"{self.hub.url}{path}", timeout=30, **kwargs)

    def login(self, token: str | bytes, path: str = "/hub/login", **fields: Any) -> requests.Response:
        page = self.get("/hub/login")
        found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert found, page.text
        return self.http.post(
            f"{self.hub.url}{path}",
            data={"_xsrf": found[1], "token": token, **fields},
            timeout=60,
            allow_redirects=False,
        )

    @property
    def signed_in(self) -> bool:
        answer = self.get("/hub/home")
        assert answer.status_code in (200, 302), answer.text
        if answer.status_code == 302:
            assert "/hub/login" in answer.headers["Location"]
        return answer.status_code == 200


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthHub]:
    running = AuthHub(tmp_path_factory.mktemp("auth"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def addresses() -> Iterator[str]:
    """Loopback addresses that no browser has come from yet."""
    return (f"127.7.{n // 250}.{n % 250 + 1}" for n in range(50_000))


@pytest.fixture
def new_browser(hub: AuthHub, addresses: Iterator[str]) -> Iterator[Callable[[], Browser]]:
    made: list[Browser] = []

    def make() -> Browser:
        made.append(Browser(hub, next(addresses)))
        return made[-1]

    yield make
    for browser in made:
        browser.http.close()


@pytest.fixture
def browser(new_browser: Callable[[], Browser]) -> Browser:
    return new_browser()


@pytest.fixture
def name() -> str:
    """A person nobody has used yet."""
    return f"p{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
def _log_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before and "hub" in request.fixturenames:
        print(request.getfixturevalue("hub").log_text()[-8000:])

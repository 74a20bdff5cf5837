"""A person at a hub's pages, without a browser: cookies and forms, no scripts. Owns the session; never judges an answer."""

from __future__ import annotations

import requests

from tests.support.hub import HubProcess


class Browser:
    """A person's session: cookies and XSRF token as a browser keeps them."""

    def __init__(self, hub: HubProcess, name: str) -> None:
        self.hub = hub
        self.name = name
        self.session = requests.Session()
        token = hub.token(name)
        self.get("/hub/login")
        answer = self.post("/hub/login", {"token": token})
        assert answer.ok, answer.text
        assert "/hub/login" not in answer.url

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.hub.url + path, timeout=60)

    def post(self, path: str, form: dict[str, str]) -> requests.Response:
        xsrf = next(c.value for c in self.session.cookies if c.name == "_xsrf" and c.path == "/hub/")
        return self.session.post(self.hub.url + path, data={**form, "_xsrf": str(xsrf)}, timeout=60)

    def spawn(self, **form: str) -> requests.Response:
        return self.post(f"/hub/spawn/{self.name}", form)

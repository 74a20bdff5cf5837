"""Tells the browser inside a lab what the hub tells about this lab.

Owns one address, `gpulab/notices`, on the lab's own server: it asks the hub with the lab's token, which may read this lab's
notices and nothing else of people or labs. Never decides anything, and answers with nothing to tell where there is no hub (the
image runs alone) or the hub does not answer.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any
from urllib.parse import urlsplit

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

NOTHING: dict[str, Any] = {"notices": [], "maintenance": None, "home": ""}
FRESH_SECONDS = 10.0
TIMEOUT_SECONDS = 10.0
MOST_BYTES = 1 << 20
log = logging.getLogger("gpulab")


def home() -> str:
    """Where the browser finds the person's labs."""
    public = os.environ.get("JUPYTERHUB_PUBLIC_HUB_URL", "")
    base = public if urlsplit(public).scheme in ("http", "https") else os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/"
    return base.rstrip("/") + "/home"


class Hub:
    """The hub's word on this lab, asked for at most once in a few seconds, however many windows are open."""

    def __init__(self, api: str, token: str) -> None:
        self._url = api.rstrip("/") + "/gpus/notices"
        self._token = token
        self._until = 0.0
        self._told = NOTHING
        self._client = AsyncHTTPClient(force_instance=True, max_body_size=MOST_BYTES)

    async def told(self) -> dict[str, Any]:
        """What there is to tell; what was heard last where the hub is away."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + FRESH_SECONDS
            try:
                heard = json.loads((await self._client.fetch(self._request())).body)
                self._told = {"notices": heard["notices"], "maintenance": heard["maintenance"], "home": home()}
            except (HTTPError, OSError, ValueError, KeyError) as error:
                log.info("the hub does not tell its notices: %s", error)
        return self._told

    def _request(self) -> HTTPRequest:
        headers = {"Authorization": f"token {self._token}"}
        return HTTPRequest(self._url, headers=headers, request_timeout=TIMEOUT_SECONDS, follow_redirects=False)


class NoticesHandler(APIHandler):
    """What there is to tell about this lab."""

    # An open window that looks for notices is no work.
    _track_activity = False

    @web.authenticated
    async def get(self) -> None:
        """Answer in the hub's form, with the address of the page *My labs*."""
        hub: Hub | None = self.settings["gpulab_hub"]
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(await hub.told() if hub else NOTHING))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "gpulab_notices"}]


def _load_jupyter_server_extension(app: Any) -> None:
    """Add the address to the lab's server."""
    api, token = os.environ.get("JUPYTERHUB_API_URL", ""), os.environ.get("JUPYTERHUB_API_TOKEN", "")
    app.web_app.settings["gpulab_hub"] = Hub(api, token) if api and token else None
    app.web_app.add_handlers(".*$", [(url_path_join(app.web_app.settings["base_url"], "gpulab/notices"), NoticesHandler)])

"""The pages of the lab: how they look, and what they say.

Owns templates, stylesheet, scripts and the hub settings that bring them up. Never decides who may have what.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from spawner.pages import kills, static_files
from spawner.pages.forms import TEMPLATES

# No inline script and no foreign origin: what a person typed cannot become code even where a template forgot to escape it.
# Inline style attributes stay allowed, because pages of JupyterHub itself use them. Bootstrap's icons are data: URLs.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "report-uri /hub/security/csp-report",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def configure_pages(c: Any, profile_titles: Mapping[str, str] | None = None) -> None:
    """Set templates, static files, logo, security headers and template variables on JupyterHub's configuration `c`.

    Settings that are already on `c` are kept, and win.

    Args:
        c: the traitlets configuration of the hub.
        profile_titles: title of each profile by key, for the home page.
    """
    hub = c.JupyterHub
    hub.template_paths = [str(TEMPLATES), *hub.get("template_paths", [])]
    hub.logo_file = str(static_files.FOLDER / "logo.svg")
    hub.template_vars = {
        "profile_titles": dict(profile_titles or {}),
        # JupyterHub calls a callable with the user, once per page.
        "moment": lambda _user: datetime.now(timezone.utc).replace(tzinfo=None),
        "memory_kills": lambda _user: kills.of,
        **hub.get("template_vars", {}),
    }
    settings = dict(hub.get("tornado_settings", {}))
    settings["headers"] = {**HEADERS, **settings.get("headers", {})}
    settings.setdefault("static_handler_class", static_files.LabStaticFilesHandler)
    hub.tornado_settings = settings

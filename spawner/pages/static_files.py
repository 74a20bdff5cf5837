"""Serves the lab's own CSS, JavaScript and pictures below the hub's static folder.

Owns the mapping of `static/gpulab/...` to this package's `static/`. Never serves anything else of the package. The handler
class is set through `tornado_settings`, because `JupyterHub.extra_handlers` is deprecated and a separate service would be
a process for four files.
"""

from __future__ import annotations

from pathlib import Path

from jupyterhub.handlers.static import CacheControlStaticFilesHandler

PREFIX = "gpulab/"
FOLDER = Path(__file__).parent / "static"


class LabStaticFilesHandler(CacheControlStaticFilesHandler):
    """JupyterHub's handler of static files, with a second root for paths that begin with `PREFIX`."""

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        """Path on disk of a request's path; tornado asks it for serving and for the version in `static_url`."""
        if path.startswith(PREFIX):
            return str(super().get_absolute_path(str(FOLDER), path.removeprefix(PREFIX)))
        return str(super().get_absolute_path(root, path))

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Refuse whatever lies outside the root that the path belongs to, such as `gpulab/../`."""
        own = self.path.replace("\\", "/").startswith(PREFIX)
        answer = super().validate_absolute_path(str(FOLDER) if own else root, absolute_path)
        return None if answer is None else str(answer)

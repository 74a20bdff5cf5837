"""A refusal of the lab as JupyterHub's exception, with its text for REST and its HTML for the browser.

Owns the translation. Never decides what is refused.
"""

from __future__ import annotations

from jupyterhub.spawner import SpawnException

from spawner import present
from spawner.errors import LabError, NoGpuFree, Queued
from spawner.model import GpuRequest, Holder
from spawner.runtime import Lab


def refusal(error: LabError, asked: object, holder: Holder, lab: Lab) -> SpawnException:
    """What JupyterHub is to raise; asks the lab who holds the GPUs where that is the reason.

    Args:
        error: why the lab does not start.
        asked: the request, where it could be read.
        holder: who asked.
        lab: the lab's parts.
    """
    text, html = error.message, present.error_html(error)
    if isinstance(error, NoGpuFree) and isinstance(asked, GpuRequest):
        text, html = present.no_gpu_free(error, asked, present.gather(lab), holder, lab.config)
    elif isinstance(error, Queued):
        html = present.queued_html(error)
    return as_exception(error, text, html)


def as_exception(error: LabError, text: str, html: str) -> SpawnException:
    """The exception with these words."""
    raised = SpawnException(text, reason=error.reason, message_html=html, status_code=error.status_code)
    # JupyterHub's form page reads these two names, its error page the constructor's.
    raised.jupyterhub_message = text
    raised.jupyterhub_html_message = html
    return raised

"""A refusal of the lab as JupyterHub's exception, with its text for REST and its HTML for the browser.

Owns the translation, and the note of it in journal and metrics. Never decides what is refused, and a note that cannot be written
never changes a refusal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta

from jupyterhub.spawner import SpawnException

from spawner import metrics, present
from spawner.errors import LabError, LedgerError, NoGpuFree, Queued
from spawner.ledger import REFUSED
from spawner.model import GpuRequest, Holder
from spawner.records import Event
from spawner.runtime import Lab

# A script that asks in a loop must not fill the disk: of one person, the journal takes so many refusals in an hour.
MOST_IN_JOURNAL = 120
log = logging.getLogger(__name__)


def refusal(error: LabError, asked: object, holder: Holder, lab: Lab, groups: Iterable[str] = ()) -> SpawnException:
    """What JupyterHub is to raise; asks the lab who holds the GPUs where that is the reason.

    Args:
        error: why the lab does not start.
        asked: the request, where it could be read.
        holder: who asked.
        lab: the lab's parts.
        groups: the person's groups, for accounting.
    """
    note(error, asked, holder, lab, groups)
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


class _Budget:
    """How many refusals of each person the journal took lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, tuple[datetime, int]] = {}

    def take(self, user: str, now: datetime) -> bool:
        """Whether one more may be written."""
        with self._lock:
            hour_ago = now - timedelta(hours=1)
            self._since = {name: entry for name, entry in self._since.items() if hour_ago < entry[0] <= now}
            began, taken = self._since.get(user, (now, 0))
            self._since[user] = (began, taken + 1)
            return taken < MOST_IN_JOURNAL


_budget = _Budget()


def note(error: LabError, asked: object, holder: Holder, lab: Lab, groups: Iterable[str] = ()) -> None:
    """Count a refusal, and write it into the journal; a request that became a ticket is none."""
    if isinstance(error, Queued):
        return
    metrics.count_refusal(error.reason)
    now = lab.clock()
    # A ledger that does not answer is not asked to write down that it does not answer.
    if isinstance(error, LedgerError) or not _budget.take(holder.user, now):
        return
    profile = asked.profile if isinstance(asked, GpuRequest) else ""
    detail = {"reason": error.reason, "profile": profile, "groups": sorted(groups)}
    try:
        lab.ledger.record(Event(now, holder.user, REFUSED, holder.user, holder.server, detail=detail))
    except LabError as trouble:
        log.warning("a refusal of %s is not in the journal: %s", holder, trouble)

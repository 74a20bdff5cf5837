"""What a hub's log says that nobody expected.

Owns the list of tracebacks that JupyterHub itself logs in ways the lab cannot avoid. Never reads a file.
"""

from __future__ import annotations

TRACEBACK = "Traceback (most recent call last):"

# Words of the record above the traceback, and how the traceback ends.
_JUPYTERHUBS_OWN = (
    # A refusal through the form or a link: told on the page in one sentence, and logged with whatever was raised.
    ("Failed to spawn single-user server with ", "jupyterhub.spawner.SpawnException: "),
    # A body that is no JSON, answered with 400.
    ("Couldn't parse JSON", "json.decoder.JSONDecodeError: "),
    # A start that was stopped by its owner while the request for it still waited.
    ("Uncaught exception POST /hub/api/users/", "asyncio.exceptions.CancelledError"),
    # JupyterHub's own database on a disk without a free block, and the rest of the stop that met it.
    ("", "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full"),
    ("", "sqlalchemy.exc.PendingRollbackError: "),
)


def unexpected_tracebacks(text: str) -> list[str]:
    """Every traceback that is not one of JupyterHub's own, with the lines above it."""
    lines = text.splitlines()
    found = []
    for first, line in enumerate(lines):
        if TRACEBACK in line:
            last = _last(lines, first)
            above = " ".join(lines[max(0, first - 3) : first])
            if not any(words in above and lines[last].strip().startswith(end) for words, end in _JUPYTERHUBS_OWN):
                found.append("\n".join(lines[max(0, first - 3) : last + 1]))
    return found


def _last(lines: list[str], first: int) -> int:
    # The frames are indented deeper than the word Traceback; the exception stands below it, as deep as it.
    margin = lines[first].index(TRACEBACK)
    for number in range(first + 1, len(lines)):
        if not lines[number].startswith(" " * (margin + 1)) and lines[number].strip():
            return number
    return len(lines) - 1

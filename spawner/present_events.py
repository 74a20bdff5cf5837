"""An entry of the journal, for a terminal, a page or a script.

Owns how it reads. Pure; never reads a ledger.
"""

from __future__ import annotations

from collections.abc import Mapping

from spawner.records import Event


def as_json(event: Event) -> dict[str, object]:
    """For a script."""
    return {
        "number": event.number,
        "at": event.at.isoformat(timespec="seconds"),
        "by": event.actor,
        "action": event.action,
        "user": event.user,
        "server": event.server,
        "subject": event.subject,
        "gpus": list(event.gpus),
        "detail": dict(event.detail),
    }


def whom(event: Event) -> str:
    """The person and lab that it concerns; '' where it concerns nobody."""
    return f"{event.user}/{event.server}" if event.server else event.user


def details(detail: Mapping[str, object]) -> str:
    """The further facts in one line."""
    return ", ".join(f"{name}: {_words(value)}" for name, value in detail.items() if value not in ("", [], None))


def cells(event: Event) -> tuple[str, ...]:
    """For a table: when, by whom, what, whom it concerns, GPUs, details. A character that steers a terminal is shown escaped."""
    gpus = event.gpus or ((event.subject,) if event.subject.startswith(("GPU-", "MIG-")) else ())
    found = (f"{event.at:%Y-%m-%d %H:%M:%S}", event.actor, event.action, whom(event), " ".join(gpus), details(event.detail))
    return tuple(_printable(cell) or "-" for cell in found)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

"""The periods that are looked back over: how they are written, on the command line and in an address.

Owns the reading of `since` and `until`. Pure; never reads a clock or a ledger.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from spawner.errors import RequestError
from spawner.schema_rules import parse_duration
from spawner.usage import Span

DEFAULT = "7d"
RULE = "a number and s, m, h or d, such as 12h or 7d, or a date such as 2026-01-31"


def span(since: str, until: str, now: datetime) -> Span:
    """The period that these words mean.

    Raises:
        RequestError: they cannot be read, or the end is before the begin.
    """
    begin, end = moment(since, now), moment(until, now) if until else now
    if begin >= end:
        raise RequestError("The period ends before it begins.", "The begin is longer ago than the end, as in 14d and 7d.")
    return Span(begin, end, now)


def moment(text: str, now: datetime) -> datetime:
    """One end of a period: a time ago, or a date or moment in ISO 8601 (UTC where it names no zone).

    Raises:
        RequestError: it is neither.
    """
    try:
        return now - timedelta(seconds=parse_duration(text))
    except OverflowError:
        return datetime(1970, 1, 1, tzinfo=timezone.utc)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise RequestError(f"{text[:40]!a} is not a time.", f"Write {RULE}.") from None

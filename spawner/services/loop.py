"""What the lab's own processes beside the hub have in common: their start, their timer and their end.

Owns arguments, signals, and the watch on the hub that started the process. Never knows what a round does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from spawner.errors import LabError

log = logging.getLogger("gpulab")


def run(work: Callable[[], None], stopped: threading.Event, parent: int, period: float) -> None:
    """Work until told to stop, or until the hub that started this process is gone.

    Args:
        work: one round; whatever it raises is logged, and the next round comes all the same.
        stopped: set to end the loop.
        parent: process id of the hub; a killed hub cannot end its services, so they watch it.
        period: seconds between two rounds.
    """
    while not stopped.wait(period):
        if os.getppid() != parent:
            log.info("the hub is gone; ending")
            return
        began = time.monotonic()
        try:
            work()
        except Exception:
            log.exception("this round failed; the next one comes in %g s", period)
        if time.monotonic() - began > 10 * period:
            log.warning("a round took %.1f s; it should take less than %g s", time.monotonic() - began, period)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopped = threading.Event()

    def stop(_signum: int, _frame: FrameType | None) -> None:
        stopped.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    return stopped


def announce(name: str) -> None:
    """Send log lines to standard error with the service's name."""
    logging.basicConfig(level=logging.INFO, format=f"[I {name}] %(message)s", stream=sys.stderr)


@contextmanager
def kept_apart(log: logging.Logger, what: str) -> Iterator[None]:
    """Log whatever goes wrong inside, and go on: one lab's trouble must not be another's.

    Args:
        log: where.
        what: went wrong, in one sentence.
    """
    try:
        yield
    except LabError as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s", what)

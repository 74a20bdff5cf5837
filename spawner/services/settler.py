"""The timer of settlement: every few seconds it compares every active lease with the engine.

Owns the loop and its end. Never decides: `settlement` does, with the same function that the spawner calls. Several of
these may run at once without harm, since every step is decided afresh and written in a transaction.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable

from spawner.services import loop

# Before the parts are imported, which takes a second: a hub that is ended in its first one interrupts its services, and
# Python's own answer to that is a traceback.
_asked_to_end = loop.stop_on_signals() if __name__ == "__main__" else threading.Event()

from spawner import endings  # noqa: E402
from spawner.errors import LabError  # noqa: E402
from spawner.model import Presence  # noqa: E402
from spawner.runtime import Lab, open_lab  # noqa: E402
from spawner.services.sampling import Sampler  # noqa: E402
from spawner.settlement import OVERDUE_STOP_SECONDS, Action, decide, settle_all  # noqa: E402

PERIOD_SECONDS = 5.0
log = logging.getLogger("gpulab.settler")


def settle_once(lab: Lab) -> None:
    """Settle every active lease that needs it, and end strays.

    The engine is asked one question for all labs; only a lease that does not look settled costs more. Errors are logged and
    the leases kept. The engine is listed before the ledger is asked, so a start that happens meanwhile is never a stray.
    """
    try:
        present: dict[str, Presence] = {}
        missing = Presence.ABSENT
        try:
            present = lab.engine.survey(lab.config.name)
        except LabError as error:
            log.warning("the engine does not answer: %s", error)
            missing = Presence.UNKNOWN
        leases = lab.ledger.active()
        now = lab.clock()
        looking = [
            lease for lease in leases if decide(lease, present.get(lease.id, missing), now, lab.patience) is not Action.KEEP
        ]
        endings.tell_of_stopped(lab, looking, present)
        settle_all(looking, lab.ledger, lab.engine, lab.clock, lab.patience)
        end_strays(lab, present)
    except LabError as error:
        log.warning("nothing settled in this round: %s", error)


def end_strays(lab: Lab, present: Iterable[str]) -> None:
    """Remove containers whose lease is released already: they would sit on GPUs that belong to others by now.

    A container whose lease the ledger does not know at all is left alone: the ledger may be the one that is wrong.
    """
    for lease_id in lab.ledger.released(present):
        # The list is older than the ledger's answer: a lab that ended in between is no stray.
        if lab.engine.presence(lease_id) in (Presence.ABSENT, Presence.UNKNOWN):
            continue
        log.warning("removing a container that outlived its lease %s", lease_id)
        try:
            lab.engine.remove(lease_id, OVERDUE_STOP_SECONDS)
        except LabError as error:
            log.warning("lease %s: its container is still there: %s", lease_id, error)


def run(lab: Lab, stopped: threading.Event, parent: int, period: float = PERIOD_SECONDS) -> None:
    """Settle until told to stop, or until the hub that started this process is gone.

    Args:
        lab: the lab's parts.
        stopped: set to end the loop.
        parent: process id of the hub; a killed hub cannot end its services, so they watch it.
        period: seconds between two rounds.
    """
    while not stopped.is_set():
        if os.getppid() != parent:
            log.info("the hub is gone; ending")
            return
        # The first round at once: a hub that is back has the work of its forerunner to finish.
        settle_once(lab)
        lab.ledger.tidy()
        stopped.wait(period)


def main(argv: list[str]) -> int:
    """Entry point: the arguments are the path of lab.yaml and the process id of the hub.

    The hub's id is told and not asked: a hub that is killed before this process asked would have left it another parent.
    """
    logging.basicConfig(level=logging.INFO, format="[I settler] %(message)s")
    parent = int(argv[2])
    try:
        lab = open_lab(argv[1])
    except LabError as error:
        log.error("%s", error.message)
        return 1
    Sampler(lab).run(_asked_to_end, parent)
    run(lab, _asked_to_end, parent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

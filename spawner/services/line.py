"""The keeper of the waiting line: gives claims to tickets whose turn it is, and starts their labs through the hub's own API.

Owns the loop. Never decides whose turn it is (`spawner.line` does), and may do nothing in the hub but start servers: its token
has the scope `start:servers` alone. What a start needs beyond the claim is checked by the hub as for any other start.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import datetime
from urllib.parse import quote

from spawner.services import loop

# Before the parts are imported, which takes a second: a hub that is ended in its first one interrupts its services.
_asked_to_end = loop.stop_on_signals() if __name__ == "__main__" else threading.Event()

import requests  # noqa: E402

from spawner.errors import LabError  # noqa: E402
from spawner.records import Ticket  # noqa: E402
from spawner.runtime import Lab, open_lab  # noqa: E402

PERIOD_SECONDS = 1.0
LOOK_SECONDS = 5
# Between two tries of the same claim's start: the hub may be busy, or its last answer still on the way.
RETRY_SECONDS = 10.0
CALL_SECONDS = 30.0
log = logging.getLogger("gpulab.line")


class Keeper:
    """One keeper of the line.

    Attributes:
        lab: the lab's parts.
        hub: address of the hub's API.
    """

    def __init__(self, lab: Lab, hub: str, token: str, session: requests.Session | None = None) -> None:
        self.lab = lab
        self.hub = hub.rstrip("/")
        self._session = session or requests.Session()
        self._session.headers["Authorization"] = f"token {token}"
        self._tried: dict[str, datetime] = {}
        self._seen: tuple[int, int] = (-1, -1)
        self._claims: tuple[Ticket, ...] = ()

    def begin(self) -> None:
        """Give all claims their full time again: while no keeper ran nobody could use them."""
        self.lab.ledger.renew_claims(self.lab.clock() + self.lab.config.line.claim)

    def work(self) -> None:
        """One round: move the line where something changed, and start what has a claim."""
        try:
            for ticket in self._claimed():
                self._start(ticket)
        except LabError as error:
            log.warning("the line did not move in this round: %s", error)

    def _claimed(self) -> tuple[Ticket, ...]:
        lab = self.lab
        now = lab.clock()
        # Asking driver and engine costs more than a second has to spare: the line moves when the ledger changed, and otherwise
        # every few seconds, because times pass and GPUs come and go.
        seen = (lab.ledger.version(), int(now.timestamp() // LOOK_SECONDS))
        if seen == self._seen:
            return self._claims
        if not lab.ledger.anybody_waits():
            self._tried.clear()
            self._seen, self._claims = seen, ()
            return ()
        claim = lab.config.line.claim
        self._claims = lab.ledger.advance(lab.leasable_gpus(), now, lambda line: lab.plan(line).turns, lab.new_id, claim)
        self._seen = (lab.ledger.version(), seen[1])
        return self._claims

    def _start(self, ticket: Ticket) -> None:
        now = self.lab.clock()
        tried = self._tried.get(ticket.lease)
        if tried is not None and (now - tried).total_seconds() < RETRY_SECONDS:
            return
        self._tried[ticket.lease] = now
        holder = ticket.holder
        server = f"servers/{quote(holder.server, safe='')}" if holder.server else "server"
        url = f"{self.hub}/users/{quote(holder.user, safe='')}/{server}"
        body = {"user_options": {"profile": ticket.request.profile, "gpus": ticket.request.gpus}}
        try:
            answer = self._session.post(url, json=body, timeout=CALL_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            log.warning("the start of %s could not be asked of the hub: %s", holder, error)
            return
        log.info("asked for the start of %s with %d GPUs: %d", holder, ticket.request.gpus, answer.status_code)
        if answer.status_code in (400, 403, 404, 409):
            self._give_up(ticket, answer)

    def _give_up(self, ticket: Ticket, answer: requests.Response) -> None:
        # The hub said no for good: the person is gone, the lab runs already, or lab.yaml does not grant it any more.
        try:
            why = str(answer.json().get("message", ""))
        except ValueError:
            why = ""
        current = self.lab.ledger.ticket(ticket.id)
        if current is not None and current.state is ticket.state:
            self.lab.ledger.cancel_ticket(ticket.id, self.lab.clock(), "lab", why or "The hub refused the start.")


def main(argv: list[str]) -> int:
    """Entry point: the arguments are the path of lab.yaml and the process id of the hub; JupyterHub gives URL and token."""
    loop.announce("line")
    try:
        keeper = Keeper(open_lab(argv[1]), os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
        keeper.begin()
    except LabError as error:
        log.error("%s", error.message)
        return 1
    loop.run(keeper.work, _asked_to_end, int(argv[2]), PERIOD_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

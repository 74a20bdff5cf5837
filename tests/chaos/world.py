"""One lab under attack: a hub that is killed again and again, a relay that says when, and a bystander who must not notice.

Owns the facts that must hold after every attack (`Chaos.recover`). Never decides what is attacked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa

from spawner.config import POLL_SECONDS
from spawner.container import LABEL_GPUS, LABEL_LEASE
from spawner.model import Lease, LeaseState
from spawner.runtime import Lab
from spawner.services.settler import PERIOD_SECONDS
from spawner.settlement import Patience
from tests.support.hub import HubProcess
from tests.support.tiny_lab import Cues
from tests.support.watched_relay import Phase, Trap, WatchedRelay

# Time that a loaded two-core machine takes for what should take none: a container's end, a round of settlement.
SLACK_SECONDS = 6
# What shows the same by a slower or a second way is for `make test-full`.
FULL = os.environ.get("GPULAB_TEST_FULL") == "1"


def every_day(value: Any, *, full: Any) -> list[Any]:
    """What is tested every day, and with it the rest where everything is."""
    return [value, *full] if FULL else [value]


LIMITS = {"limits__start_seconds": 8, "limits__http_seconds": 20, "limits__stop_seconds": 2}


def patience_of(hub: HubProcess) -> Patience:
    """How long the settlement of this lab waits before it acts."""
    patience: Patience = Lab(hub.config, *(None,) * 3).patience  # type: ignore[arg-type]
    return patience


def in_background(ask: Callable[[], Any]) -> threading.Thread:
    """Ask a hub that may be killed before it answers."""

    def asking() -> None:
        with contextlib.suppress(requests.RequestException):
            ask()

    thread = threading.Thread(target=asking)
    thread.start()
    return thread


@dataclass
class Bystander:
    """Somebody whose lab runs all the time: it keeps lease, GPU and container, is never restarted, and can be reached."""

    hub: HubProcess
    user: str
    token: str
    url: str
    lease: Lease
    container: str
    started: str

    @classmethod
    def start(cls, hub: HubProcess, user: str) -> Bystander:
        token = hub.token(user)
        model = hub.start_lab(user, token, "gpu-1")
        (lease,) = (lease for lease in hub.leases() if lease.holder.user == user)
        (found,) = (c for c in hub.containers() if c["Labels"][LABEL_LEASE] == lease.id)
        started = hub.engine.client.inspect_container(found["Id"])["State"]["StartedAt"]
        return cls(hub, user, token, model["url"], lease, found["Id"], started)

    def assert_undisturbed(self, *, hub: bool = True) -> None:
        """Lease and container are the same, and the proxy leads to it; with a hub, it shows the lab as ready."""
        state = self.hub.engine.client.inspect_container(self.container)["State"]
        assert (state["Running"], state["StartedAt"]) == (True, self.started), f"the bystander's lab was disturbed: {state}"
        assert self.lease in self.hub.leases(), "the bystander's lease was touched"
        deadline = time.monotonic() + 20
        while not self._reached():
            assert time.monotonic() < deadline, "the bystander's lab cannot be reached"
            time.sleep(0.1)
        if hub:
            assert (self.hub.server_model(self.user, self.token) or {}).get("ready"), "the hub lost the bystander's lab"

    def _reached(self) -> bool:
        headers = {"Authorization": f"token {self.token}"}
        with contextlib.suppress(requests.RequestException):
            return self.hub.session.get(f"{self.hub.url}{self.url}api/status", headers=headers, timeout=20).status_code == 200
        return False


@dataclass
class Chaos:
    """A hub, the relay between it and the engine, and two people: `ana` is attacked, `bo` is the bystander."""

    hub: HubProcess
    relay: WatchedRelay
    bystander: Bystander
    ana: Cues
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.hub.process
        return self.hub.process.pid

    @property
    def token(self) -> str:
        return self.hub.token("ana")

    # --- what is attacked ----

    def ready(self, *, running: bool) -> None:
        """The state that an attack begins with: ana has a lab on the second GPU, or none."""
        self.ana.forget()
        self.relay.disarm()
        if not self.hub.answering():
            self.hub.terminate()
            self.hub.start()
        self.hub.assert_agreement(60)
        token = self.token
        runs = bool((self.hub.server_model("ana", token) or {}).get("ready"))
        if runs and not running:
            self.hub.stop_lab("ana", token)
        elif running and not runs:
            self.hub.start_lab("ana", token, "gpu-1")
        if running:
            self._wait_until_shared_looks_show_it(token)
        self.ana.forget()
        self.settled = len(self.relay.calls(self.pid))

    def _wait_until_shared_looks_show_it(self, token: str) -> None:
        # A look from before the lab was up makes the hub ask for this lab alone, and a stop begins with such a question before
        # it is noted anywhere. The answer to one who starts a running lab again comes of a look, too.
        since = len(self.relay.calls(self.pid))

        def looked() -> bool:
            assert self.hub.post_lab("ana", token, {"profile": "gpu-1"}).status_code == 400
            return any(call.what == "GET /containers/json by lab" for call in self.relay.calls(self.pid, since))

        self.hub.wait_for(looked, 20, "a look at all labs")

    def ask_start(self) -> None:
        token = self.token
        self.threads.append(in_background(lambda: self.hub.post_lab("ana", token, {"profile": "gpu-1"})))

    def ask_stop(self) -> None:
        token = self.token
        self.threads.append(in_background(lambda: self.hub.api("DELETE", "/users/ana/server", token)))

    def catch(self, what: str, number: int, phase: Phase) -> Trap:
        """Catch the next call of the hub of this kind; calls of the settler are not counted."""
        return self.relay.arm(self.pid, what, number, phase)

    def held(self, trap: Trap) -> None:
        """Wait until the call is there and held."""
        assert trap.caught.wait(20), f"the hub never made {trap.what!r}: {self.calls()}"

    def calls(self) -> list[str]:
        """What the hub asked of the engine since `ready`, less its looks at the bystander's lab."""
        calls = self.relay.calls(self.pid, self.settled)
        return [call.what for call in calls if self.bystander.lease.id not in call.text]

    def lease(self) -> Lease | None:
        """Ana's lease."""
        return next((lease for lease in self.hub.leases() if lease.holder.user == "ana"), None)

    def hub_knows(self, column: str) -> Any:
        """A column of what the hub's own database has on ana's lab: `state` or `server_id`."""
        with closing(sqlite3.connect(f"file:{self.hub_database}?mode=ro", uri=True, timeout=10)) as database:
            words = f"SELECT spawners.{column} FROM spawners JOIN users ON users.id = user_id WHERE users.name = 'ana'"
            found = database.execute(words).fetchone()
        return found[0] if found else None

    @property
    def hub_database(self) -> Path:
        return self.hub.files.folder / ".lab" / "state" / "jupyterhub.sqlite"

    @property
    def ledger_database(self) -> Path:
        return Path(str(sa.make_url(self.hub.config.ledger_url).database))

    # --- what must hold afterwards ----

    def kill(self) -> None:
        """kill -9 of the hub, and what was held on its way to or from the engine is lost with it."""
        self.hub.kill()
        self.relay.lose()
        for thread in self.threads:
            thread.join(30)
        self.threads.clear()

    def recover(self, *, survives: bool) -> None:
        """Start the killed hub again and assert what must hold.

        Ledger and engine agree within one period of settlement after the hub answers, plus what settlement is documented to
        wait for and what was the case at the kill: the time to end of a lab that ran, and the travelling time of a creation
        that the engine has not answered.

        Args:
            survives: ana's lab must be there and ready; otherwise it must be gone, and the next start must work.
        """
        allowed = timedelta(seconds=PERIOD_SECONDS + SLACK_SECONDS) + (timedelta() if survives else self._waiting())
        self.ana.forget()
        self.assert_no_gpu_twice()
        self.bystander.assert_undisturbed(hub=False)
        # It served until now. JupyterHub would end it itself, and wait two seconds for that.
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((self.hub.files.folder / ".lab" / "state" / "proxy.pid").read_text()), signal.SIGTERM)
        self.hub.start()
        self.agree(allowed, survives=survives)
        if survives:
            self.hub.wait_ready("ana", self.token, wait=20)
        else:
            # A lab whose stop was begun before the kill ends after it; the hub notices with its next look.
            shown = POLL_SECONDS + SLACK_SECONDS
            self.hub.wait_for(lambda: self.hub.server_model("ana", self.token) is None, shown, "the lab to be shown as ended")
            self.hub.start_lab("ana", self.token, "gpu-1", wait=30)
            self.hub.assert_agreement()
        lease = self.lease()
        assert lease
        assert lease.state is LeaseState.BOUND
        self.assert_no_gpu_twice()
        self.bystander.assert_undisturbed()

    def agree(self, allowed: timedelta, *, survives: bool) -> None:
        """Ledger and engine agree in this time, on ana's lab too."""
        deadline = time.monotonic() + allowed.total_seconds()
        if not survives:
            self.hub.wait_for(
                lambda: not self.lease(), allowed.total_seconds(), "the lease of the killed start or stop to be released"
            )
        self.hub.assert_agreement(max(1.0, deadline - time.monotonic()))
        assert (self.lease() is not None) is survives, f"{self.hub.leases()}\n{self.hub.log_tail()}"

    def _waiting(self) -> timedelta:
        patience, lease = patience_of(self.hub), self.lease()
        if lease is None:
            return timedelta()
        found = [c for c in self.hub.containers() if c["Labels"][LABEL_LEASE] == lease.id]
        waiting = timedelta()
        if lease.in_flight and not found:
            waiting += patience.flight
        if any(container["State"] == "running" for container in found):
            waiting += patience.stop
        return waiting

    def assert_no_gpu_twice(self) -> None:
        """G1, as the engine sees it: no two containers were made with one GPU, nor two leases in the ledger."""
        made = [gpu for c in self.hub.containers() for gpu in c["Labels"][LABEL_GPUS].split(",") if gpu]
        assert len(made) == len(set(made)), self.hub.containers()
        leased = [gpu for lease in self.hub.leases() for gpu in lease.gpus]
        assert len(leased) == len(set(leased)), self.hub.leases()


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process keeps the write lock of an SQLite database."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")

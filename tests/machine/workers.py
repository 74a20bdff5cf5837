"""What the processes do that share one ledger; each of these functions is the life of one process."""

from __future__ import annotations

import random
import threading
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from spawner.errors import DeniedError, LabError, LedgerError
from spawner.grants import LineRules, ReclaimRules
from spawner.ledger import Ledger, Line
from spawner.line import plan
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from spawner.records import Grant, Standing, Ticket
from tests.unit.values import T0, make_gpu

GPUS = [make_gpu(n) for n in range(4)]
MOST = 3  # GPUs of a person at once


def admit(request: GpuRequest, holder: Holder, standing: Standing) -> Grant:
    held = sum(len(one.gpus) for one in standing.leases if one.holder != holder and one.state is not LeaseState.DRAINING)
    if held + request.gpus > MOST:
        raise DeniedError("Too many at once.")
    return Grant(request)


def turns(now: datetime, line: Line) -> Any:
    def rule(ticket: Ticket, given: Any) -> Grant:
        standing = line.standings[ticket.holder.user]
        more = tuple(lease for lease in given if lease.holder.user == ticket.holder.user)
        return admit(ticket.request, ticket.holder, Standing((*standing.leases, *more)))

    return plan(line.waiting, line.gpus, line.leases, line.shares, now, LineRules(), ReclaimRules(), rule, packed).turns


def new_id() -> str:
    return uuid.uuid4().hex


def live(url: str, seed: int, rounds: int, results: Any) -> None:
    """A person with two labs who also moves the line; tells every trouble that is not a plain no."""
    chance = random.Random(seed)
    ledger = Ledger.open(url, busy_seconds=60)
    now = T0
    held: dict[str, Lease] = {}
    try:
        for _ in range(rounds):
            now += timedelta(seconds=chance.choice([1, 40, 400]))
            server = chance.choice(["", "b"])
            holder = Holder(f"user{seed % 3}", server)
            step = chance.randrange(5)
            if server in held and step < 3:
                lease = held.pop(server)
                ledger.drain(lease.id, now)
                ledger.release(lease.id, now, "done")
            elif step == 3:
                ledger.advance(GPUS, now, partial(turns, now), new_id, timedelta(minutes=5))
            elif step == 4:
                ledger.cancel_tickets_of(holder, now, "lab") if chance.random() < 0.2 else ledger.line(GPUS, now)
            elif server not in held:
                held.update(_start(ledger, GpuRequest("p", chance.randint(1, 3), wait=chance.random() < 0.8), holder, now))
        for lease in held.values():
            ledger.drain(lease.id, now)
            ledger.release(lease.id, now, "done")
        results.put((seed, ""))
    except Exception as error:
        results.put((seed, repr(error)))
    finally:
        ledger.close()


def _start(ledger: Ledger, request: GpuRequest, holder: Holder, now: datetime) -> dict[str, Lease]:
    if ledger.active_of(holder) and any(one.state is not LeaseState.CLAIMED for one in ledger.active_of(holder)):
        return {}
    try:
        made = ledger.acquire(request, holder, GPUS, lease_id=new_id(), now=now, admit=admit, choose=packed)
    except LedgerError:
        raise
    except LabError:
        return {}
    if not isinstance(made, Lease):
        return {}
    ledger.answered(made.id, "container")
    ledger.bind(made.id, now)
    return {holder.server: made}


def watch(url: str, stopped: Any, results: Any) -> None:
    """Look at the ledger again and again: no picture of it may ever be wrong, not even for a moment."""
    ledger = Ledger.open(url, busy_seconds=60)
    wrong, looks = "", 0
    while not (stopped.is_set() and looks > 20):
        leases = ledger.active()
        looks += 1
        uuids = [uuid for lease in leases for uuid in lease.gpus]
        if len(uuids) != len(set(uuids)):
            wrong = f"two leases have one GPU: {leases}"
        if any(not lease.gpus for lease in leases):
            wrong = f"a lease without its GPUs: {leases}"
        people = {lease.holder.user for lease in leases}
        for user in people:
            mine = [one for one in leases if one.holder.user == user and one.state is not LeaseState.DRAINING]
            if sum(len(one.gpus) for one in mine) > MOST:
                wrong = f"{user} has too many GPUs: {mine}"
    ledger.close()
    results.put((-1, wrong))


def hang(url: str, moment: str, there: Any) -> None:
    """Acquire GPUs and hang in the middle of it: while policy decides, or when everything is written but not committed."""
    ledger = Ledger.open(url)

    def stay() -> None:
        there.set()
        threading.Event().wait()

    def slow(request: GpuRequest, holder: Holder, standing: Standing) -> Grant:
        if moment == "deciding":
            stay()
        sa.event.listen(ledger._engine, "commit", lambda _: stay())
        return Grant(request)

    ledger.acquire(GpuRequest("p", 4), Holder("victim"), GPUS, lease_id=new_id(), now=T0, admit=slow, choose=packed)

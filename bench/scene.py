"""A big lab's ledger, made quickly: GPUs on many nodes, labs that run, a long line, and years of past leases.

Owns what the imagined lab looks like, and the bulk insert. What is measured goes through the ledger's own methods; only the past
is written past them, into the tables that the ledger made, with the rows that it would have written itself.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from spawner.ledger import Ledger
from spawner.ledger.tables import stored
from spawner.model import Gpu, Holder

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
NODES = 128
PER_NODE = 8
FREE_NODES = 8
WAITED_FOR = "Waited-for 80 GB"
FREE = "Free 24 GB"
PEOPLE = 3000
# One million leases are a year of such a lab.
BETWEEN_LEASES = timedelta(days=365) / 1_000_000
_LEASE = (
    "INSERT INTO leases (id, user, server, profile, state, container, in_flight, created, bound, drained, released,"
    " release_reason, gpus) VALUES (?,?,?,?,?,?,0,?,?,?,?,?,?)"
)
_GPU = "INSERT INTO lease_gpus (lease_id, uuid, position, active) VALUES (?,?,?,?)"
_EVENT = "INSERT INTO events (at, actor, action, user, server, subject, gpus, detail) VALUES (?,?,?,?,'',?,?,?)"
_TICKET = (
    "INSERT INTO tickets (id, user, server, profile, gpus, models, sharing, priority, created, state)"
    " VALUES (?,?,?,?,?,?,'exclusive',1,?,'waiting')"
)


@dataclass(frozen=True)
class Past:
    """One lease that ended, as rows."""

    lease: tuple[object, ...]
    gpus: tuple[tuple[object, ...], ...]
    events: tuple[tuple[object, ...], ...]


def gpus() -> tuple[Gpu, ...]:
    """1,024 GPUs on 128 nodes; on the last 8 nodes another model, which nobody waits for."""
    return tuple(
        Gpu(
            f"GPU-{node:08x}-0000-4000-8000-{index:012x}",
            f"node{node:03d}",
            index,
            WAITED_FOR if node < NODES - FREE_NODES else FREE,
            80_000 if node < NODES - FREE_NODES else 24_000,
        )
        for node in range(NODES)
        for index in range(PER_NODE)
    )


def person(number: int) -> str:
    """Somebody's name."""
    return f"person{number % PEOPLE:04d}"


def fill_present(path: Path, tickets: int, seed: int = 1) -> int:
    """Let all GPUs that are waited for be held, and so many tickets wait; returns how many labs run."""
    chance = random.Random(seed)
    began = NOW - timedelta(hours=6)
    held = [gpu.uuid for gpu in gpus() if gpu.model == WAITED_FOR]
    leases: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    while held:
        wanted = min(chance.choice((1, 1, 1, 2, 4)), len(held))
        ident = _id(chance)
        at = _stored(began + timedelta(seconds=len(leases)))
        who = person(len(leases))
        leases.append((ident, who, "", f"gpu-{wanted}", "bound", ident, at, at, None, None, "", wanted))
        rows += [(ident, held.pop(0), position, 1) for position in range(wanted)]
    models = stored([WAITED_FOR])
    waiting = [
        (_id(chance), person(number), f"s{number // PEOPLE}", "gpu-2", 2, models, _stored(began + timedelta(seconds=number)))
        for number in range(tickets)
    ]
    with _bulk(path) as connection:
        connection.executemany(_LEASE, leases)
        connection.executemany(_GPU, rows)
        connection.executemany(_TICKET, waiting)
    return len(leases)


def fill_past(path: Path, first: int, last: int) -> None:
    """Write past leases number `first` to `last` (not included), the newest has number 0; each with its GPU and journal."""
    chance = random.Random(first)
    with _bulk(path) as connection:
        for start in range(first, last, 20_000):
            made = [_past(number, chance) for number in range(start, min(start + 20_000, last))]
            connection.executemany(_LEASE, [past.lease for past in made])
            connection.executemany(_GPU, [row for past in made for row in past.gpus])
            connection.executemany(_EVENT, [row for past in made for row in past.events])


def made(path: Path) -> Ledger:
    """The ledger at this path, with its tables."""
    return Ledger.open(f"sqlite:///{path}")


def _past(number: int, chance: random.Random) -> Past:
    ended = NOW - timedelta(seconds=60) - number * BETWEEN_LEASES
    began = ended - timedelta(seconds=chance.expovariate(1 / 7200))
    ident, who, wanted = _id(chance), person(chance.randrange(PEOPLE)), chance.choice((0, 1, 1, 2))
    units = [f"GPU-{chance.randrange(NODES):08x}-0000-4000-8000-{index:012x}" for index in range(wanted)]
    profile = f"gpu-{wanted}" if wanted else "cpu"
    first, last = _stored(began), _stored(ended)
    lease = (ident, who, "", profile, "released", ident, first, first, last, last, "the container is gone", wanted)
    listed = str(units).replace("'", '"')
    detail = f'{{"profile": "{profile}"}}'
    told = [(first, "acquired"), (first, "bound"), (last, "draining"), (last, "released")]
    return Past(
        lease,
        tuple((ident, uuid, position, 0) for position, uuid in enumerate(units)),
        tuple((at, who, f"lease.{what}", who, ident, listed, detail) for at, what in told),
    )


def holders(prefix: str) -> Iterator[Holder]:
    """People who start labs: each of the lab's people in turn, each time under a new server name."""
    number = 0
    while True:
        yield Holder(person(number * 7), f"{prefix}{number}")
        number += 1


class _bulk:
    """A connection for a bulk insert: no waiting for the disk, one transaction, everything in the main file afterwards."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        for pragma in ("synchronous=OFF", "cache_size=-1500000", "foreign_keys=OFF"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("BEGIN IMMEDIATE")
        return self.connection

    def __exit__(self, kind: object, *_rest: object) -> None:
        self.connection.execute("COMMIT" if kind is None else "ROLLBACK")
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()


def _id(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"


def _stored(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

"""What looking after labs leaves in the ledger: changed watches, troubles of labs, and labs that start again where they were.

Owns writing and reading these. Never decides: `reclaim`, `seats` and the pages do, and tell it here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from spawner.ledger.journal import watch_of, write_event, write_watches
from spawner.ledger.store import Store
from spawner.ledger.tables import LIVE, LIVE_TICKETS, aware, lease_gpus, leases, naive, notes, one_of, stored, tickets, watches
from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.records import TicketState, Watch
from spawner.told import Ending, Told, Trouble, TroubleKind

_RESTART = "restart"
KINDS = (_RESTART, *(f"trouble.{kind.value}" for kind in TroubleKind))
_WATCHES = sa.select(watches.c.lease, watches.c.extensions, watches.c.cause)
_MINE = (
    sa.select(leases.c.id, leases.c.server, leases.c.ends)
    .where(leases.c.state == LeaseState.BOUND.value, leases.c.user == sa.bindparam("of_user"))
    .order_by(leases.c.server)
)
_ENDINGS = (
    sa.select(leases.c.id, leases.c.server, leases.c.released, leases.c.ending)
    .where(leases.c.user == sa.bindparam("of_user"), leases.c.released >= sa.bindparam("recent"), leases.c.ending != "")
    .order_by(leases.c.released.desc())
    .limit(5)
)
_OF_LEASE = (one_of(notes.c.kind, KINDS), notes.c.subject == sa.bindparam("of_lease"))
# Labs and claims of a person that began since a moment, other than one lease.
_BEGUN = sa.select(leases.c.server).where(
    LIVE, leases.c.user == sa.bindparam("of_user"), leases.c.id != sa.bindparam("but"), leases.c.created >= sa.bindparam("since")
)
_NOTED = sa.select(notes).where(*_OF_LEASE)
_FORGET = notes.delete().where(*_OF_LEASE)
_LIVING = sa.select(leases.c.id).where(leases.c.state == LeaseState.BOUND.value)
# A restart that was asked for and did not come is not done later, when the person has long gone on.
RESTART_WITHIN = timedelta(minutes=10)
# Whoever was away longer has other worries than why a lab ended.
SHOWN_ENDINGS = timedelta(days=30)


class Care(Store):
    """The part of the ledger that labs are looked after with."""

    def rewatch(self, changes: Iterable[tuple[Watch, Watch]]) -> frozenset[str]:
        """Replace watches, except of labs that ended, or that somebody extended or wrote to meanwhile.

        Args:
            changes: pairs of what a decision rests on, and what came of it.

        Returns:
            Leases whose watch was replaced. What was decided of the others rests on an old watch, and is to be decided anew.
        """
        with self._transaction() as connection:
            found = {row.lease: (row.extensions, row.cause) for row in connection.execute(_WATCHES)}
            lives = set(connection.execute(_LIVING).scalars())
            new = [
                after
                for before, after in changes
                if before.lease in lives and found.get(before.lease, (0, "")) == (before.extensions, before.cause)
            ]
            write_watches(connection, new)
            return frozenset(watch.lease for watch in new)

    def told(self, user: str, now: datetime) -> Told:
        """What a person is to be told about their labs; cheap to ask, whatever they had in the past."""
        recent = naive(now - SHOWN_ENDINGS)
        with self._transaction(write=False) as connection:
            mine = connection.execute(_MINE, {"of_user": user}).all()
            ids = [row.id for row in mine]
            watched = connection.execute(sa.select(watches).where(watches.c.lease.in_(ids))) if ids else ()
            noted = sa.select(notes).where(notes.c.kind.in_(KINDS[1:]), notes.c.subject.in_(ids)).order_by(notes.c.kind)
            troubles = connection.execute(noted) if ids else ()
            return Told(
                {row.id: Holder(user, row.server) for row in mine},
                {row.id: aware(row.ends) for row in mine},
                tuple(watch_of(row) for row in watched),
                tuple(_trouble(row) for row in troubles),
                tuple(
                    Ending(row.id, Holder(user, row.server), aware(row.released), row.ending)
                    for row in connection.execute(_ENDINGS, {"of_user": user, "recent": recent})
                ),
            )

    def note_trouble(self, trouble: Trouble) -> None:
        """Keep a trouble of a lab; one of the same kind is replaced."""
        body = {"text": trouble.text, "stop_at": _text(trouble.stop_at), "seen": _text(trouble.seen)}
        with self._transaction() as connection:
            _forget(connection, trouble.lease, trouble.kind)
            _note(connection, f"trouble.{trouble.kind.value}", trouble.lease, trouble.since, body)

    def end_trouble(self, lease_id: str, kind: TroubleKind) -> None:
        """Forget a trouble that is over. Idempotent."""
        with self._transaction() as connection:
            _forget(connection, lease_id, kind)

    def troubles(self) -> tuple[Trouble, ...]:
        """Every trouble of a lab, by lease id."""
        query = sa.select(notes).where(notes.c.kind.in_(KINDS[1:])).order_by(notes.c.subject, notes.c.kind)
        with self._transaction(write=False) as connection:
            return tuple(_trouble(row) for row in connection.execute(query))

    def restart_after(
        self, lease: Lease, request: GpuRequest, ids: tuple[str, str], claim: timedelta, actor: str, now: datetime
    ) -> None:
        """Note that a lab is to start again, on the GPUs that it has, as soon as its container is gone.

        Args:
            lease: the lab's lease.
            request: what it was started with.
            ids: new ids, 32 hex digits each, of the ticket and of the claim that the GPUs are set aside by.
            claim: how long they are set aside.
            actor: who wants it.
            now: the present moment.
        """
        body = {
            "ticket": ids[0], "claim": ids[1], "seconds": claim.total_seconds(), "models": list(request.gpu_models),
            "memory_mib": request.gpu_memory_mib, "sharing": request.sharing,
        }  # fmt: skip
        with self._transaction() as connection:
            connection.execute(notes.delete().where(notes.c.kind == _RESTART, notes.c.subject == lease.id))
            _note(connection, _RESTART, lease.id, now, body)
            write_event(connection, now, actor, "lease.restart", lease=lease)


def on_release(connection: sa.Connection, lease: Lease, now: datetime) -> None:
    """Inside the transaction that released a lease: forget its troubles, and set its GPUs aside where it is to start again.

    It starts again with the end of life and the extensions that it had, so its watch is to be there still.
    """
    found = {row.kind: row for row in connection.execute(_NOTED, {"of_lease": lease.id})}
    if found:
        connection.execute(_FORGET, {"of_lease": lease.id})
    row = found.get(_RESTART)
    if row is None or now - aware(row.at) > RESTART_WITHIN:
        return
    waits = sa.select(tickets.c.id).where(
        tickets.c.user == lease.holder.user, tickets.c.server == lease.holder.server, tickets.c.state.in_(LIVE_TICKETS)
    )
    if connection.execute(waits).first() is not None:
        return
    begun = set(connection.execute(_BEGUN, {"of_user": lease.holder.user, "but": lease.id, "since": row.at}).scalars())
    if lease.holder.server in begun:
        return
    # Who began another lab while this one ended may have used up what policy grants: then the line decides, as for anybody.
    _start_again(connection, lease, json.loads(row.body), now, claimed=not begun)


def _start_again(connection: sa.Connection, lease: Lease, body: dict[str, Any], now: datetime, *, claimed: bool) -> None:
    who = {"user": lease.holder.user, "server": lease.holder.server, "profile": lease.profile, "gpus": len(lease.gpus)}
    same = {**who, "groups": stored(lease.groups), "priority": lease.priority, "created": naive(now)}
    until = naive(now + timedelta(seconds=body["seconds"]))
    claim = {"lease": body["claim"], "claim_until": until, "why": "The lab starts again."} if claimed else {}
    state = TicketState.CLAIMED if claimed else TicketState.WAITING
    connection.execute(
        tickets.insert().values(
            id=body["ticket"], state=state.value, models=stored(body["models"]), memory_mib=body["memory_mib"],
            sharing=body["sharing"], **claim, **same,
        )
    )  # fmt: skip
    write_event(
        connection, now, "lab", "ticket.made", user=lease.holder.user, server=lease.holder.server, subject=body["ticket"],
        detail={"profile": lease.profile, "gpus": len(lease.gpus), "why": "the lab starts again"},
    )  # fmt: skip
    if claimed:
        _claim_again(connection, lease, body, now, same)


def _claim_again(connection: sa.Connection, lease: Lease, body: dict[str, Any], now: datetime, same: dict[str, Any]) -> None:
    ends = naive(lease.ends) if lease.ends else None
    connection.execute(
        leases.insert().values(
            id=body["claim"], state=LeaseState.CLAIMED.value, in_flight=False, ticket=body["ticket"], ends=ends, **same
        )
    )  # fmt: skip
    if (row := connection.execute(sa.select(watches).where(watches.c.lease == lease.id)).first()) is not None:
        # It is the same lab for whoever waits: what it had of its life, of its extensions and of idle time, it has had.
        before = watch_of(row)
        kept = Watch(
            body["claim"], before.idle_since, safe_until=before.safe_until, extensions=before.extensions, seen=before.seen
        )
        write_watches(connection, [kept])
    for position, uuid in enumerate(lease.gpus):
        values = {"lease_id": body["claim"], "uuid": uuid, "position": position, "active": True}
        connection.execute(lease_gpus.insert().values(**values))
    write_event(
        connection, now, "lab", "ticket.claimed", user=lease.holder.user, server=lease.holder.server, subject=body["claim"],
        gpus=lease.gpus, detail={"profile": lease.profile, "ticket": body["ticket"], "why": "the lab starts again"},
    )  # fmt: skip


def _forget(connection: sa.Connection, lease_id: str, kind: TroubleKind) -> None:
    connection.execute(notes.delete().where(notes.c.kind == f"trouble.{kind.value}", notes.c.subject == lease_id))


def _note(connection: sa.Connection, kind: str, subject: str, at: datetime, body: Mapping[str, object]) -> None:
    connection.execute(notes.insert().values(kind=kind, subject=subject, at=naive(at), body=json.dumps(body)))


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _trouble(row: Any) -> Trouble:
    body = json.loads(row.body)
    times = {name: datetime.fromisoformat(body[name]) if body[name] else None for name in ("stop_at", "seen")}
    return Trouble(row.subject, TroubleKind(row.kind.removeprefix("trouble.")), aware(row.at), body["text"], **times)

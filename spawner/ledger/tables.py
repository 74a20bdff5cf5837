"""The tables of the ledger, and how a row becomes a value.

Owns names, columns, indexes and the migration from older schemas. Never opens a database and knows no rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from spawner.model import GpuRequest, Holder, Lease, LeaseState
from spawner.records import Ticket, TicketState

SCHEMA_VERSION = 4
metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("schema_version", sa.Integer, nullable=False))


def _text(name: str, length: int = 255) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, server_default="")


leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("user", sa.String(255), nullable=False),
    sa.Column("server", sa.String(255), nullable=False),
    sa.Column("profile", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("container", sa.String(128), nullable=False, default=""),
    sa.Column("in_flight", sa.Boolean, nullable=False),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("drained", sa.DateTime),
    sa.Column("absent_since", sa.DateTime),
    sa.Column("released", sa.DateTime),
    sa.Column("release_reason", sa.String(200), nullable=False, default=""),
    sa.Column("bound", sa.DateTime),
    sa.Column("ends", sa.DateTime),
    sa.Column("starting", sa.DateTime),
    sa.Column("gpus", sa.Integer, nullable=False, server_default="0"),
    _text("groups", 2000),
    _text("ticket", 32),
    sa.Column("priority", sa.Integer, nullable=False, server_default="1"),
    sa.Column("waited", sa.Float, nullable=False, server_default="0"),
    sa.Column("idle_seconds", sa.Float, nullable=False, server_default="0"),
    # Why the lab ended, for its owner; '' once they have read it, or where they ended it themselves.
    _text("ending", 1000),
    sa.Index("leases_active", "state", "user", "server"),
    sa.Index("leases_history", "user", "released"),
    sa.Index("leases_released", "released"),
)
lease_gpus = sa.Table(
    "lease_gpus",
    metadata,
    sa.Column("lease_id", sa.String(32), sa.ForeignKey("leases.id"), primary_key=True),
    sa.Column("uuid", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
)
# The last guard of G1: whatever the code above does, the database refuses a second active lease of a GPU.
sa.Index(
    "lease_gpus_one_holder",
    lease_gpus.c.uuid,
    unique=True,
    sqlite_where=lease_gpus.c.active.is_(True),
    postgresql_where=lease_gpus.c.active.is_(True),
)
tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("user", sa.String(255), nullable=False),
    sa.Column("server", sa.String(255), nullable=False),
    sa.Column("profile", sa.String(64), nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    _text("models", 4000),
    sa.Column("memory_mib", sa.Integer, nullable=False, server_default="0"),
    _text("sharing", 16),
    _text("groups", 2000),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    _text("lease", 32),
    sa.Column("claim_until", sa.DateTime),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("held_back_until", sa.DateTime),
    sa.Column("ahead", sa.Integer, nullable=False, server_default="0"),
    sa.Column("ended", sa.DateTime),
    _text("why", 1000),
    sa.Index("tickets_by_state", "state", "user", "server"),
    sa.Index("tickets_by_kind", "state", "sharing", "models", "memory_mib"),
    sa.Index("tickets_of_user", "user", "created"),
)
# A holder has at most one ticket that still counts.
sa.Index(
    "tickets_one_per_holder",
    tickets.c.user,
    tickets.c.server,
    unique=True,
    sqlite_where=tickets.c.state.in_(["waiting", "claimed", "starting"]),
    postgresql_where=tickets.c.state.in_(["waiting", "claimed", "starting"]),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime, nullable=False),
    _text("actor"),
    _text("action", 64),
    _text("user"),
    _text("server"),
    _text("subject", 64),
    sa.Column("gpus", sa.Text, nullable=False, server_default="[]"),
    sa.Column("detail", sa.Text, nullable=False, server_default="{}"),
    sa.Index("events_at", "at"),
    sa.Index("events_action", "action", "at"),
)
# GPU-seconds of each person, decayed to the moment `at`; only ever touched when a lease is released.
shares = sa.Table(
    "shares",
    metadata,
    sa.Column("user", sa.String(255), primary_key=True),
    sa.Column("gpu_seconds", sa.Float, nullable=False),
    sa.Column("at", sa.DateTime, nullable=False),
)
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("subject", sa.String(255), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    _text("reason", 500),
    _text("by"),
    sa.Column("since", sa.DateTime, nullable=False),
    sa.Column("comes_back", sa.Boolean, nullable=False),
)
watches = sa.Table(
    "watches",
    metadata,
    sa.Column("lease", sa.String(32), primary_key=True),
    sa.Column("idle_since", sa.DateTime),
    sa.Column("noticed", sa.DateTime),
    sa.Column("warned", sa.DateTime),
    sa.Column("stop_at", sa.DateTime),
    sa.Column("safe_until", sa.DateTime),
    sa.Column("seen", sa.DateTime),
    sa.Column("extensions", sa.Integer, nullable=False, server_default="0"),
    _text("cause", 32),
    _text("text", 1000),
)
# The latest of each kind, replaced in place: samples of GPUs by UUID, and the state of maintenance.
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("subject", sa.String(255), primary_key=True),
    sa.Column("at", sa.DateTime, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("at", sa.DateTime, primary_key=True),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("held", sa.Integer, nullable=False),
    sa.Column("idle", sa.Integer, nullable=False),
    sa.Column("out", sa.Integer, nullable=False),
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("busy", sa.Float),
)
# The journal is only added to, whoever asks.
_REFUSAL = "the journal is only added to"
_GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER IF NOT EXISTS events_{verb} BEFORE {verb} ON events BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("update", "delete")
    ]
    + [
        # `INSERT OR REPLACE` deletes without being asked for a DELETE. A number that is left to the database is none yet here.
        # S608: nothing of anybody's is in these words; a trigger takes no parameters.
        "CREATE TRIGGER IF NOT EXISTS events_insert BEFORE INSERT ON events "  # noqa: S608
        "WHEN NEW.number IN (SELECT number FROM events) "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
        # It reads as -1 there, so an entry of such a number would stand in the way of all that follow.
        "CREATE TRIGGER IF NOT EXISTS events_inserted AFTER INSERT ON events WHEN NEW.number < 1 "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION events_guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE OR REPLACE TRIGGER events_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_guard()",
    ],
}


def _guard(_table: Any, connection: sa.Connection, **_: Any) -> None:
    """Make the guards that the journal does not have yet."""
    for statement in _GUARDS.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement)


sa.event.listen(events, "after_create", _guard)

LIVE_TICKETS = (TicketState.WAITING.value, TicketState.CLAIMED.value, TicketState.STARTING.value)


def one_of(column: sa.Column[str], values: Iterable[str]) -> sa.ColumnElement[bool]:
    """Whether a column has one of some words of the lab's own.

    They are written into the statement, so that a partial index on them is used and the statement is the same each time.
    """
    return column.in_([sa.literal_column(f"'{value}'") for value in values])


# A ticket that counts, and a lease that is not released.
IN_LINE = one_of(tickets.c.state, LIVE_TICKETS)
LIVE = one_of(leases.c.state, (state.value for state in LeaseState if state is not LeaseState.RELEASED))


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring the tables of an older schema up to this one; called after the missing tables were made."""
    present = {column["name"] for column in sa.inspect(connection).get_columns("leases")}
    for column in leases.columns:
        if column.name not in present:
            spec = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE leases ADD COLUMN {spec}")
    if version < 2:
        counted = sa.select(sa.func.count()).where(lease_gpus.c.lease_id == leases.c.id).scalar_subquery()
        connection.execute(leases.update().values(gpus=counted))
        # Settlement ends a lab that was never up without time to save; these were, and may still run.
        used = leases.c.state.in_([LeaseState.BOUND.value, LeaseState.DRAINING.value])
        connection.execute(leases.update().where(used).values(bound=leases.c.created))
        for index in leases.indexes:
            index.create(connection, checkfirst=True)
    if version < 4:
        _guard(events, connection)
        for index in tickets.indexes:
            index.create(connection, checkfirst=True)
    connection.execute(meta.update().values(schema_version=SCHEMA_VERSION))


def naive(moment: datetime) -> datetime:
    """As it is stored: UTC, without zone."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None)


def aware(moment: datetime | None) -> Any:
    """As it is used: aware, in UTC; None stays None."""
    return None if moment is None else moment.replace(tzinfo=timezone.utc)


def words(text: str) -> tuple[str, ...]:
    """A stored list of words."""
    return tuple(json.loads(text)) if text else ()


def stored(values: Iterable[str]) -> str:
    """A list of words as it is stored; '' for none."""
    listed = list(values)
    return json.dumps(listed) if listed else ""


def lease_of(row: Any, gpus: tuple[str, ...]) -> Lease:
    """A row of `leases` as a value."""
    return Lease(
        id=row.id,
        holder=Holder(row.user, row.server),
        profile=row.profile,
        gpus=gpus,
        state=LeaseState(row.state),
        created=aware(row.created),
        container=row.container,
        in_flight=row.in_flight,
        drained=aware(row.drained),
        absent_since=aware(row.absent_since),
        bound=aware(row.bound),
        ends=aware(row.ends),
        groups=words(row.groups),
        ticket=row.ticket,
        priority=row.priority,
        starting=aware(row.starting),
    )


def ticket_of(row: Any) -> Ticket:
    """A row of `tickets` as a value."""
    return Ticket(
        id=row.id,
        holder=Holder(row.user, row.server),
        request=GpuRequest(row.profile, row.gpus, words(row.models), row.memory_mib, row.sharing or "exclusive"),
        groups=words(row.groups),
        priority=row.priority,
        created=aware(row.created),
        state=TicketState(row.state),
        lease=row.lease,
        claim_until=aware(row.claim_until),
        attempts=row.attempts,
        held_back_until=aware(row.held_back_until),
        ahead=row.ahead,
        why=row.why,
    )

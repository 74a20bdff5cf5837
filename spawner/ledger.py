"""The lease ledger: who holds which GPU, kept in a database that survives every restart.

Owns the tables, the transaction around policy, placement and lease, and the legal transitions. Never asks the engine
or the driver: it holds intent, the engine holds fact, and `settlement` alone compares them. A released row does not take
a GPU from a container; only the container's end does, which is why `release` is called by `settlement` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from spawner.errors import LabError, LedgerError
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState

SCHEMA_VERSION = 1
_READS = "gpulab_reads"
_metadata = sa.MetaData()
_meta = sa.Table("meta", _metadata, sa.Column("schema_version", sa.Integer, nullable=False))
_leases = sa.Table(
    "leases",
    _metadata,
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
    sa.Index("leases_active", "state", "user", "server"),
)
_lease_gpus = sa.Table(
    "lease_gpus",
    _metadata,
    sa.Column("lease_id", sa.String(32), sa.ForeignKey("leases.id"), primary_key=True),
    sa.Column("uuid", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
)
# The last guard of G1: whatever the code above does, the database refuses a second active lease of a GPU.
sa.Index(
    "lease_gpus_one_holder",
    _lease_gpus.c.uuid,
    unique=True,
    sqlite_where=_lease_gpus.c.active.is_(True),
    postgresql_where=_lease_gpus.c.active.is_(True),
)

Admit = Callable[[GpuRequest, Holder, Sequence[Lease]], None]
Choose = Callable[[GpuRequest, Sequence[Gpu], Sequence[Lease]], tuple[str, ...]]


class Ledger:
    """An opened ledger; safe to use from several threads and processes at once.

    All times are aware datetimes in UTC. Every method raises `LedgerError` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str, busy_seconds: float = 10.0) -> Ledger:
        """Open, and make on first use, the ledger at this SQLAlchemy URL.

        Raises:
            LedgerError: the database cannot be opened, or was written by a newer version.
        """
        parsed = sa.make_url(url)
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": busy_seconds}
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, **options)
        if parsed.get_backend_name() == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_connect)
            sa.event.listen(engine, "begin", _sqlite_begin)
        ledger = cls(engine)
        ledger._prepare()
        return ledger

    def close(self) -> None:
        """Close all connections; the ledger may not be used afterwards."""
        self._engine.dispose()

    def acquire(
        self,
        request: GpuRequest,
        holder: Holder,
        gpus: Sequence[Gpu],
        *,
        lease_id: str,
        now: datetime,
        admit: Admit,
        choose: Choose,
    ) -> Lease:
        """Policy, placement and lease in one transaction.

        Args:
            request: what is asked.
            holder: who asks.
            gpus: every GPU of the lab, as the inventory sees it now.
            lease_id: a new id, 32 hex digits.
            now: the present moment.
            admit: raises when the holder may not have it; sees all active leases.
            choose: picks the GPUs; raises when too few are free.

        Returns:
            The new lease, in state *starting* and with its creation in flight.

        Raises:
            LabError: whatever `admit` or `choose` raised; nothing was written.
            LedgerError: the database refused.
        """
        with self._transaction() as connection:
            active = _active(connection)
            admit(request, holder, active)
            chosen = choose(request, gpus, active)
            connection.execute(
                _leases.insert().values(
                    id=lease_id,
                    user=holder.user,
                    server=holder.server,
                    profile=request.profile,
                    state=LeaseState.STARTING.value,
                    container="",
                    in_flight=True,
                    created=_naive(now),
                    release_reason="",
                )
            )
            for position, uuid in enumerate(chosen):
                connection.execute(_lease_gpus.insert().values(lease_id=lease_id, uuid=uuid, position=position, active=True))
        return Lease(lease_id, holder, request.profile, chosen, LeaseState.STARTING, now, in_flight=True)

    def answered(self, lease_id: str, container: str) -> None:
        """Note that the engine answered the creation: with a container's id, or '' for a refusal."""
        self._change(lease_id, (LeaseState.STARTING, LeaseState.DRAINING), container=container, in_flight=False)

    def bind(self, lease_id: str) -> None:
        """Note that the lab runs.

        Raises:
            LedgerError: the lease is not *starting* any more: its start was given up meanwhile.
        """
        if not self._change(lease_id, (LeaseState.STARTING,), state=LeaseState.BOUND.value):
            raise LedgerError("The start was given up before the lab was up.", "Start it again.")

    def drain(self, lease_id: str, now: datetime) -> None:
        """Note that the lab is to end. Idempotent; does not free anything."""
        states = (LeaseState.STARTING, LeaseState.BOUND)
        self._change(lease_id, states, state=LeaseState.DRAINING.value, drained=_naive(now))

    def note_absent(self, lease_id: str, now: datetime) -> None:
        """Note the first *absent* of a draining lease."""
        self._change(lease_id, (LeaseState.DRAINING,), absent_since=_naive(now))

    def release(self, lease_id: str, now: datetime, reason: str) -> None:
        """Give the GPUs back. Called by `settlement` only. Idempotent."""
        with self._transaction() as connection:
            connection.execute(
                _leases.update()
                .where(_leases.c.id == lease_id, _leases.c.state != LeaseState.RELEASED.value)
                .values(state=LeaseState.RELEASED.value, released=_naive(now), release_reason=reason[:200])
            )
            connection.execute(_lease_gpus.update().where(_lease_gpus.c.lease_id == lease_id).values(active=False))

    def active(self) -> tuple[Lease, ...]:
        """All leases that are not released, oldest first."""
        with self._transaction(write=False) as connection:
            return _active(connection)

    def active_of(self, holder: Holder) -> tuple[Lease, ...]:
        """The holder's leases that are not released, oldest first."""
        return tuple(lease for lease in self.active() if lease.holder == holder)

    def released(self, lease_ids: Iterable[str]) -> frozenset[str]:
        """Those of the given leases that are known and released; an unknown id is not among them."""
        with self._transaction(write=False) as connection:
            found = connection.execute(
                sa.select(_leases.c.id).where(_leases.c.id.in_(list(lease_ids)), _leases.c.state == LeaseState.RELEASED.value)
            )
            return frozenset(found.scalars())

    def _change(self, lease_id: str, states: tuple[LeaseState, ...], **values: Any) -> bool:
        with self._transaction() as connection:
            result = connection.execute(
                _leases.update()
                .where(_leases.c.id == lease_id, _leases.c.state.in_([state.value for state in states]))
                .values(**values)
            )
            return bool(result.rowcount)

    def _prepare(self) -> None:
        with self._transaction() as connection:
            _metadata.create_all(connection)
            version = connection.execute(sa.select(_meta.c.schema_version)).scalar()
            if version is None:
                connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise LedgerError(
                    f"The ledger has schema {version}; this version knows {SCHEMA_VERSION}.",
                    "Run the newer version of GPU Lab that wrote it.",
                )

    @contextmanager
    def _transaction(self, write: bool = True) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect().execution_options(**{_READS: not write}) as connection, connection.begin():
                if write and connection.dialect.name == "postgresql":
                    # Writers queue here, so what `admit` and `choose` saw is still true at commit.
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(7203)"))
                yield connection
        except LabError:
            raise
        except sa.exc.IntegrityError as error:
            raise LedgerError("Another lab took that GPU in the same moment.", "Try again.") from error
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            raise LedgerError(
                f"The lease ledger cannot be used ({cause}).",
                "Tell your admin: check the free space and rights of the state folder.",
            ) from error


def _active(connection: sa.Connection) -> tuple[Lease, ...]:
    rows = connection.execute(
        sa.select(_leases).where(_leases.c.state != LeaseState.RELEASED.value).order_by(_leases.c.created, _leases.c.id)
    ).all()
    by_lease: dict[str, list[str]] = {}
    for gpu in connection.execute(
        sa.select(_lease_gpus.c.lease_id, _lease_gpus.c.uuid)
        .where(_lease_gpus.c.active.is_(True))
        .order_by(_lease_gpus.c.position)
    ):
        by_lease.setdefault(gpu.lease_id, []).append(gpu.uuid)
    return tuple(
        Lease(
            id=row.id,
            holder=Holder(row.user, row.server),
            profile=row.profile,
            gpus=tuple(by_lease.get(row.id, ())),
            state=LeaseState(row.state),
            created=_aware(row.created),
            container=row.container,
            in_flight=row.in_flight,
            drained=_aware(row.drained) if row.drained else None,
            absent_since=_aware(row.absent_since) if row.absent_since else None,
        )
        for row in rows
    )


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc)


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred and would let two readers decide on the same picture; see _sqlite_begin.
    # ref: SQLAlchemy documentation, "Serializable isolation / Savepoints / Transactional DDL" for SQLite
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A reader sees the last committed state at once; only writers wait for each other.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")

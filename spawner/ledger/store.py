"""The opened database of the ledger: connections, transactions, and the making of its tables.

Owns how SQLite and PostgreSQL are spoken to. Never knows what a lease or a ticket means.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from spawner.errors import LabError, LedgerError
from spawner.ledger import tables

_READS = "gpulab_reads"
# Pages of 4 KiB in the write-ahead log from which on a commit moves them, see `tidy`.
LONG_LOG_PAGES = 8000
S = TypeVar("S", bound="Store")


class Store:
    """An opened database; safe to use from several threads and processes at once.

    Every method raises `LedgerError` when the database does not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        # Made once: an option that is set on each connection costs a request more than its commit's words do.
        reading: dict[str, Any] = {_READS: True}
        if engine.dialect.name == "postgresql":
            # Several questions of one reader see one state, as they do in SQLite. A writer must not: its picture would be from
            # before it waited for its turn.
            reading["isolation_level"] = "REPEATABLE READ"
        self._reader = engine.execution_options(**reading)

    @classmethod
    def open(cls: type[S], url: str, busy_seconds: float = 10.0) -> S:
        """Open, and make on first use, the ledger at this SQLAlchemy URL.

        Raises:
            LedgerError: the database cannot be opened, or was written by a newer version.
        """
        parsed = sa.make_url(url)
        options: dict[str, Any] = {}
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite:
            # Connections are kept: opening one, and the write-ahead log with it, needs space on the disk.
            options["connect_args"] = {"timeout": busy_seconds, "check_same_thread": False}
            options["pool_size"] = 8
            # The one that was used last: what it has read of the database is still in its memory.
            options["pool_use_lifo"] = True
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        elif parsed.get_backend_name() == "postgresql":
            # Waiting for another writer is bounded, and so is how long a stalled process may keep the others waiting.
            limits = f"-c lock_timeout={int(busy_seconds * 1000)} -c idle_in_transaction_session_timeout=60000"
            options["connect_args"] = {"options": limits}
            options["pool_pre_ping"] = True
        engine = sa.create_engine(parsed, **options)
        if sqlite:
            sa.event.listen(engine, "connect", _sqlite_connect)
            sa.event.listen(engine, "begin", _sqlite_begin)
        store = cls(engine)
        try:
            store._prepare()
        except BaseException:
            engine.dispose()
            raise
        return store

    def close(self) -> None:
        """Close all connections; the ledger may not be used afterwards."""
        self._engine.dispose()

    def tidy(self) -> None:
        """Move what was committed out of SQLite's write-ahead log; a service does so between requests.

        SQLite would do it inside every hundredth commit or so, and whoever starts a lab then would wait for it. Nobody waits for
        this one, and nothing is lost where it fails: SQLite still does it by itself when the log grows long.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with contextlib.suppress(sa.exc.SQLAlchemyError, sqlite3.Error):
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()
            finally:
                connection.close()

    def _prepare(self) -> None:
        with self._transaction() as connection:
            tables.metadata.create_all(connection, tables=[tables.meta])
            version = connection.execute(sa.select(tables.meta.c.schema_version)).scalar()
            if version is not None and version > tables.SCHEMA_VERSION:
                raise LedgerError(
                    f"The ledger has schema {version}; this version knows {tables.SCHEMA_VERSION}.",
                    "Run the newer version of GPU Lab that wrote it.",
                )
            if version is None:
                tables.metadata.create_all(connection)
                connection.execute(tables.meta.insert().values(schema_version=tables.SCHEMA_VERSION))
            elif version < tables.SCHEMA_VERSION:
                tables.metadata.create_all(connection)
                tables.migrate(connection, version)

    @contextmanager
    def _transaction(self, write: bool = True) -> Iterator[sa.Connection]:
        try:
            with (self._engine if write else self._reader).connect() as connection, connection.begin():
                if write and connection.dialect.name == "postgresql":
                    # Writers queue here, so what `admit` and `choose` saw is still true at commit.
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(7203)"))
                yield connection
        except LabError:
            raise
        except sa.exc.IntegrityError as error:
            raise LedgerError("Another lab took that GPU in the same moment.", "Try again.") from error
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            raise LedgerError(
                f"The lease ledger cannot be used ({cause}).",
                "Tell your admin: check the free space and rights of the state folder.",
            ) from error


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred and would let two readers decide on the same picture; see _sqlite_begin.
    # ref: SQLAlchemy documentation, "Serializable isolation / Savepoints / Transactional DDL" for SQLite
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA wal_autocheckpoint={LONG_LOG_PAGES}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A reader sees the last committed state at once; only writers wait for each other.
    # Told to the driver itself: as a statement of SQLAlchemy's it would cost more than it does.
    words = "BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE"
    connection.connection.cursor().execute(words).close()

"""Engines and sessions. Queries never commit; only the web dependency and the job runner do."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

_AFTER_COMMIT = "tastemaker_after_commit"
_RETURNED = "tastemaker_returned"
_IDLE_SECONDS = 5.0


class Database:
    """One engine and the two ways to use it.

    `reader` sessions may run side by side. `writer` sessions on SQLite begin with BEGIN IMMEDIATE: they wait for each
    other up front, where the busy timeout applies, instead of failing halfway when a read turns into a write.
    """

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine: Engine = create_engine(
                parsed, pool_size=pool_size, max_overflow=20, connect_args={"timeout": 30, "check_same_thread": False}
            )
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = create_engine(parsed, pool_size=pool_size, max_overflow=20)
            event.listen(self.engine, "checkin", _note_return)
            event.listen(self.engine, "checkout", partial(_ping_idle, self.engine.dialect))
        self._write_engine = self.engine.execution_options(sqlite_begin="IMMEDIATE")
        self._lookup_engine = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )

    def new_session(self, *, write: bool) -> Session:
        """A session that the caller must close; commit is the caller's too."""
        return Session(self._write_engine if write else self.engine, expire_on_commit=False)

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """A session for reading; whatever it might have changed is rolled back."""
        with self.new_session(write=False) as session:
            yield session

    @contextmanager
    def lookup(self) -> Iterator[Session]:
        """A session for single reads that come often: PostgreSQL is asked without BEGIN and ROLLBACK around them."""
        with Session(self._lookup_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writer(self) -> Iterator[Session]:
        """A session that commits when the block ends well and rolls back when it raises."""
        with self.new_session(write=True) as session:
            yield session
            session.commit()

    def dispose(self) -> None:
        self.engine.dispose()


def run_after_commit(session: Session, callback: Callable[[], object]) -> None:
    """Call `callback` once this session's transaction has committed; a rollback drops it."""
    callbacks = session.info.get(_AFTER_COMMIT)
    if callbacks is None:
        callbacks = session.info[_AFTER_COMMIT] = []
        event.listen(session, "after_commit", _run_callbacks)
        event.listen(session, "after_soft_rollback", _drop_callbacks)
    callbacks.append(callback)


def _run_callbacks(session: Session) -> None:
    if session.in_nested_transaction():  # SQLAlchemy reports released savepoints here too
        return
    callbacks: list[Callable[[], object]] = session.info[_AFTER_COMMIT]
    pending, callbacks[:] = list(callbacks), []
    for callback in pending:
        callback()


def _drop_callbacks(session: Session, _previous: Any) -> None:
    if session.in_nested_transaction():
        return
    session.info[_AFTER_COMMIT].clear()


def _note_return(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_RETURNED] = time.monotonic()


def _ping_idle(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Replace a connection that has died since it was last used. One that was just in use is not asked."""
    if time.monotonic() - record.info.get(_RETURNED, -math.inf) < _IDLE_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions on its own; _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")

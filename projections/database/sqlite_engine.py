"""Engines for SQLite: pragmas, the function `fingerprint`, and a time limit for statements."""

import sqlite3
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

from projections.database.fingerprint import fingerprint_of

_BUSY_TIMEOUT_S = 5
_STEPS_PER_CHECK = 100_000
WAL_BYTES_MAX = 8 * 2**20
_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "cache_size = -65536",
    f"journal_size_limit = {WAL_BYTES_MAX}",
)


def make_engine(url: URL, pool_size: int, isolation_level: Any) -> Engine:
    """Return an engine. Creates the folder of the database's file if it does not exist."""
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
        hide_parameters=True,  # errors must not show values of events and requests
        pool_size=pool_size,
        isolation_level=isolation_level,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "connect", partial(_remember_file, url.database))
    event.listen(engine, "checkout", partial(_check_file, url.database))
    return engine


def limit_statement(timeout_s: float, connection: Connection, *_: object) -> None:
    """Make SQLite interrupt the next statement after `timeout_s`; a listener for `before_cursor_execute`."""
    deadline_s = time.monotonic() + timeout_s
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > deadline_s, _STEPS_PER_CHECK)


def shrink_wal(engine: Engine) -> None:
    """Empty the file of SQLite's write-ahead log if it is large; does nothing on PostgreSQL or while a reader needs it.

    Otherwise it would keep the size that it reached during a long read until something is written.
    """
    if engine.dialect.name != "sqlite" or _wal_bytes(engine) <= WAL_BYTES_MAX:
        return
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")  # it would make writers wait while it waits for readers
        try:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000}")


def _wal_bytes(engine: Engine) -> int:
    with suppress(FileNotFoundError):
        return Path(f"{engine.url.database}-wal").stat().st_size
    return 0


def _prepare(connection: Any, _record: object) -> None:
    # Switch off the driver's implicit transactions: SQLAlchemy begins and ends them.
    connection.isolation_level = None
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()  # the pool would not close it
        raise
    connection.create_function("fingerprint", 1, fingerprint_of, deterministic=True)


def _remember_file(path: str | None, _connection: object, record: Any) -> None:
    record.info["inode"] = _inode(path)


def _check_file(path: str | None, _connection: object, record: Any, _proxy: object) -> None:
    """Let the pool open a new connection if another file was put in the place of the one that is open."""
    if _inode(path) not in (None, record.info["inode"]):
        raise DisconnectionError("the database file was replaced")


def _inode(path: str | None) -> int | None:
    """Return the file's inode; None while there is no file, and for the URI of a file."""
    with suppress(OSError):
        return Path(path or "").stat().st_ino if path else None
    return None

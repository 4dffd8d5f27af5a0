"""Checks of SQLite: readers and writers do not block each other, and writes succeed."""

import sqlite3
from collections.abc import Iterator

from sqlalchemy import false, update
from sqlalchemy.exc import DBAPIError

from projections.transaction import checkpoint_table
from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context

# The bug is as old as 3.7.0: https://sqlite.org/wal.html
_FIXED_IN = (3, 51, 3)


@warning_check(
    "sqlite-wal-reset-bug",
    Subject.SQLITE,
    "G1",
    meaning="This Python is linked to a version of SQLite that may, very rarely, corrupt a database when two processes"
    " write and move the write-ahead log into the file at the same moment.",
    remedy="use a Python that is linked to SQLite 3.51.3 or newer, or PostgreSQL; and keep backups",
)
def wal_reset_bug(context: Context) -> Iterator[Observation]:
    """Compare the version of the linked library with the one that has the fix."""
    if context.sqlite_version < _FIXED_IN:
        yield Observation(f"SQLite is {'.'.join(map(str, context.sqlite_version))}")


@error_check(
    "sqlite-not-wal",
    Subject.SQLITE,
    "G7",
    meaning="SQLite could not switch to write-ahead logging, because of a network file system or an option in"
    " DATABASE_URL. Readers block the commits of drains, and drains block readers.",
    remedy="put the file on a local disk (PROJECTOR_DATA_DIR or DATABASE_URL), without `vfs=` or `nolock=`; or use"
    " PostgreSQL",
)
def not_wal(context: Context) -> Iterator[Observation]:
    """Check whether write-ahead logging is in use; every connection requests it."""
    mode = context.scalar("PRAGMA journal_mode")
    if mode != "wal":
        yield Observation(f"journal_mode is {mode}")


@error_check(
    "sqlite-read-only",
    Subject.SQLITE,
    "G7",
    meaning="The database accepts no writes, so nothing is projected.",
    remedy="allow the user of the processes to write `{file}` and its folder; also check for a read-only mount and for"
    " `mode=ro` in DATABASE_URL",
)
def read_only(context: Context) -> Iterator[Observation]:
    """Check whether a write is refused."""
    error = _write_error(context)
    if error is not None and _primary_code(error) == sqlite3.SQLITE_READONLY:
        yield Observation(str(error), {"file": context.sqlite_file})


@error_check(
    "sqlite-locked",
    Subject.SQLITE,
    "G7",
    meaning="Another process holds the write lock, so every drain waits.",
    remedy="end its transaction: `fuser {file}` lists the processes that have the file open; workers never hold the"
    " lock for longer than a batch takes",
)
def locked(context: Context) -> Iterator[Observation]:
    """Check whether a write gets the lock within the time that a drain would wait."""
    error = _write_error(context)
    if error is not None and _primary_code(error) == sqlite3.SQLITE_BUSY:
        yield Observation(f"{error} for {context.limits.lock_wait_s:g} s", {"file": context.sqlite_file})


def _write_error(context: Context) -> sqlite3.Error | None:
    """Try a write that changes no row, and return its error."""
    with context.runtime.reader.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(context.limits.lock_wait_s * 1000)}")
        try:
            connection.execute(update(checkpoint_table.table).where(false()).values(read=0))
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                return error.orig
            raise
    return None


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, without the bits of an extended one."""
    return error.sqlite_errorcode & 0xFF

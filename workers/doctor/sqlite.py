"""Checks of SQLite: does its journal let readers and writers live side by side, and can it be written to."""

import sqlite3
from collections.abc import Iterator

from sqlalchemy import false, update
from sqlalchemy.exc import DBAPIError

from projections.transaction import checkpoint
from workers.doctor.check import Checker, Observation, Side
from workers.doctor.context import Context

sqlite = Checker(Side.SQLITE)


@sqlite.danger(
    "sqlite-not-wal",
    "G7",
    means="SQLite could not be brought to write-ahead logging: a reader keeps drains from committing, and a drain keeps"
    " readers waiting. File systems of a network, and some options in DATABASE_URL, are the reason.",
    remedy="put the file on a local disk (PROJECTOR_DATA_DIR or DATABASE_URL), without `vfs=` or `nolock=`; or use"
    " PostgreSQL",
)
def not_wal(patient: Context) -> Iterator[Observation]:
    """See what came of asking for it, as every connection of ours does."""
    mode = patient.scalar("PRAGMA journal_mode")
    if mode != "wal":
        yield Observation(f"journal_mode is {mode}")


@sqlite.danger(
    "sqlite-read-only",
    "G7",
    means="The database takes no writes: nothing is projected.",
    remedy="give the user of the processes the right to write `{file}` and its folder; mind a read-only mount, and"
    " `mode=ro` in DATABASE_URL",
)
def read_only(patient: Context) -> Iterator[Observation]:
    """See whether a write is refused."""
    error = _error_of_a_write(patient)
    if error is not None and _primary_code(error) == sqlite3.SQLITE_READONLY:
        yield Observation(str(error), {"file": patient.sqlite_file})


@sqlite.danger(
    "sqlite-locked",
    "G7",
    means="Another process keeps the write lock: every drain waits for it.",
    remedy="end its transaction: `fuser {file}` names the processes that have the file open; ours never keep the lock"
    " for longer than a batch takes",
)
def locked(patient: Context) -> Iterator[Observation]:
    """See whether a write gets its turn within the time that a drain would wait."""
    error = _error_of_a_write(patient)
    if error is not None and _primary_code(error) == sqlite3.SQLITE_BUSY:
        yield Observation(f"{error} for {patient.limits.lock_wait_s:g} s", {"file": patient.sqlite_file})


def _error_of_a_write(patient: Context) -> sqlite3.Error | None:
    """Return what keeps a write from being made; the one that is tried changes no row."""
    with patient.runtime.reader.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(patient.limits.lock_wait_s * 1000)}")
        try:
            connection.execute(update(checkpoint.table).where(false()).values(read=0))
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                return error.orig
            raise
    return None


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code without what an extended one adds to it."""
    return error.sqlite_errorcode & 0xFF

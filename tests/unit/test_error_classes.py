"""Which errors are internal (caused by an event) and which are external (an outage)."""

import sqlite3
import struct

import psycopg
import pytest
from psycopg import errors as pg
from redis.exceptions import BusyLoadingError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.timeouts import BaseTimeoutException, JobTimeoutException
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from event_stream.events.decoding import decode
from projections.error_classes import ErrorClass, classify_error, describe, is_out_of_memory
from projections.folding.projection import FoldError
from tests.support.events import body, event


def out_of_a_fold(cause: BaseException) -> FoldError:
    error = FoldError("projection project", decode(body(event())), Exception())
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        out_of_a_fold(KeyError("bug")),
        out_of_a_fold(RecursionError()),
        DBAPIError("s", {}, pg.NumericValueOutOfRange()),
        DBAPIError("s", {}, pg.CharacterNotInRepertoire()),
        DBAPIError("s", {}, pg.UniqueViolation()),
        pg.NotNullViolation(),
        psycopg.DataError("NUL"),
        DBAPIError("s", {}, sqlite3.IntegrityError()),
        UnicodeEncodeError("latin-1", "漢", 0, 1, "ordinal not in range(256)"),
        OverflowError("Python int too large to convert to SQLite INTEGER"),
        struct.error("int too large to convert"),
    ],
)
def test_errors_caused_by_a_fold_or_by_the_data_are_internal(error: BaseException) -> None:
    assert classify_error(error) is ErrorClass.INTERNAL


@pytest.mark.parametrize(
    "error",
    [
        *(
            DBAPIError("s", {}, kind())
            for kind in (
                pg.DeadlockDetected,
                pg.SerializationFailure,
                pg.AdminShutdown,
                pg.IdleInTransactionSessionTimeout,
                pg.QueryCanceled,
                pg.LockNotAvailable,
                pg.DiskFull,
                pg.TooManyConnections,
                pg.ReadOnlySqlTransaction,
                pg.CannotConnectNow,
                pg.UndefinedTable,
                pg.InsufficientPrivilege,
                pg.InternalError_,
            )
        ),
        psycopg.OperationalError("connection lost"),
        OperationalError("s", {}, sqlite3.OperationalError("database is locked")),
        sqlite3.OperationalError("database or disk is full"),
        PoolTimeoutError(),
        RedisConnectionError(),
        BusyLoadingError(),
        ReadOnlyError(),
        MemoryError(),
        OSError(28, "No space left on device"),
        TypeError("a bug outside of every fold"),
        out_of_a_fold(MemoryError()),
        out_of_a_fold(OSError()),
        out_of_a_fold(TimeoutError()),
        out_of_a_fold(JobTimeoutException()),
    ],
)
def test_all_other_errors_are_external(error: BaseException) -> None:
    assert classify_error(error, interruptions=(BaseTimeoutException,)) is ErrorClass.EXTERNAL


def test_a_memory_error_counts_as_out_of_memory_even_inside_a_fold() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(out_of_a_fold(MemoryError()))
    assert not is_out_of_memory(out_of_a_fold(OSError()))
    assert not is_out_of_memory(
        psycopg.OperationalError("out of memory")
    )  # the server's memory is not that of this process


def test_only_data_and_constraint_errors_of_postgresql_are_internal() -> None:
    known = [kind for kind in vars(pg).values() if isinstance(kind, type) and issubclass(kind, pg.Error)]
    table = {kind.sqlstate: kind for kind in known if kind.sqlstate}
    assert len({sqlstate[:2] for sqlstate in table}) > 35
    for sqlstate, kind in table.items():
        expected = ErrorClass.INTERNAL if sqlstate[:2] in ("22", "23") else ErrorClass.EXTERNAL
        assert classify_error(kind()) is classify_error(DBAPIError("s", {}, kind())) is expected, sqlstate


def test_an_unknown_sqlstate_is_classified_by_its_class() -> None:
    assert pg.lookup("22012") is pg.DivisionByZero
    for sqlstate, expected in (
        ("22ZZZ", ErrorClass.INTERNAL),
        ("23ZZZ", ErrorClass.INTERNAL),
        ("40ZZZ", ErrorClass.EXTERNAL),
        ("ZZZZZ", ErrorClass.EXTERNAL),
    ):
        assert classify_error(pg.get_base_exception(sqlstate)()) is expected


def test_an_error_description_contains_no_event_data() -> None:
    assert "secret" not in describe(DBAPIError("INSERT secret", {"x": "secret"}, pg.UniqueViolation("secret")))
    assert describe(DBAPIError("s", {}, pg.UniqueViolation("secret"))) == "UniqueViolation 23505"
    assert describe(UnicodeEncodeError("latin-1", "secret", 0, 1, "secret")) == "UnicodeEncodeError"
    failed = FoldError("projection project", decode(body(event())), KeyError("secret"))
    assert describe(failed) == "FoldError: projection project failed with KeyError"
    assert describe(psycopg.OperationalError("connection refused\nhint")) == "OperationalError: connection refused"

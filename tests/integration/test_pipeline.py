"""Statements in PostgreSQL's pipeline mode: they are sent without waiting, and an error of one fails them all."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, bindparam, select, text, update
from sqlalchemy.exc import DataError, OperationalError

from projections.database.pipeline import Query, execute, fetch, pipelined
from projections.transaction import checkpoint_table
from projections.transaction.checkpoint import Checkpoint
from tests.support.servers import wait_until
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
table = checkpoint_table.table
_READ = Query(select(table.c.partition, table.c.read).order_by(table.c.partition), {})
_MARK = update(table).where(table.c.partition == bindparam("of")).values(read=bindparam("read"))
_FAIL = update(table).values(read=1 / (table.c.read - table.c.read))


@pytest.fixture
def holder(runtime: Runtime) -> Iterator[Connection]:
    """Another session that holds the claim of partition 1."""
    with runtime.reader.connect() as connection:
        connection.execute(text("BEGIN"))
        connection.execute(text("SELECT * FROM checkpoint WHERE partition = 1 FOR UPDATE"))
        yield connection
        connection.execute(text("ROLLBACK"))


def read_of(runtime: Runtime, partition: int) -> int:
    with runtime.reader.connect() as connection:
        return checkpoint_table.read(connection, partition).read


def test_statements_are_sent_without_waiting_and_all_are_executed_by_the_commit(
    runtime: Runtime, holder: Connection
) -> None:
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        for partition in (0, 1, 2):
            execute(connection, _MARK, {"of": partition, "read": 7})  # the second waits for a lock
        wait_until(lambda: _waits_for_a_lock(holder), "the statement waits in the server")
        holder.execute(text("ROLLBACK"))
    assert [read_of(runtime, partition) for partition in range(4)] == [7, 7, 7, 0]


def test_a_query_sees_the_statements_sent_before_it(runtime: Runtime) -> None:
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        execute(connection, _MARK, {"of": 2, "read": 7})
        before, nothing, again = fetch(connection, _READ, None, _READ)
        assert (before, nothing, again) == ([(0, 0), (1, 0), (2, 7), (3, 0)], [], before)
        connection.rollback()
    assert read_of(runtime, 2) == 0


def test_a_claim_that_times_out_raises_its_own_error_though_queries_follow_it(
    runtime: Runtime, holder: Connection
) -> None:
    before = backend_of(runtime)
    for _ in range(7):  # until the driver has prepared the statements, and once more
        with pytest.raises(OperationalError, match="lock timeout"):
            claim_impatiently(runtime)
    holder.execute(text("ROLLBACK"))
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        assert len(checkpoint_table.claim(connection, Checkpoint(1), (), [_READ])[0]) == 4
    assert backend_of(runtime) == before


def claim_impatiently(runtime: Runtime) -> None:
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
        checkpoint_table.claim(connection, Checkpoint(1), (), [_READ, None, _READ])


def test_an_error_of_one_statement_is_raised_by_the_commit_and_nothing_is_written(runtime: Runtime) -> None:
    before = backend_of(runtime)
    with pytest.raises(DataError, match="division by zero"):
        mark_and_fail(runtime)
    assert [read_of(runtime, partition) for partition in range(4)] == [0, 0, 0, 0]
    assert backend_of(runtime) == before  # the connection is still usable


def mark_and_fail(runtime: Runtime) -> None:
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        execute(connection, _MARK, {"of": 0, "read": 7})
        execute(connection, _FAIL, {})
        execute(connection, _MARK, {"of": 1, "read": 7})


def backend_of(runtime: Runtime) -> int:
    with runtime.writer.connect() as connection:
        return int(connection.scalar(text("SELECT pg_backend_pid()")))


def test_an_error_of_one_statement_is_raised_by_the_next_fetch(runtime: Runtime) -> None:
    with runtime.writer.connect() as connection, pipelined(connection):
        execute(connection, _FAIL, {})
        with pytest.raises(DataError, match="division by zero"):
            fetch(connection, _READ)
        connection.rollback()
        assert fetch(connection, _READ) == [[(0, 0), (1, 0), (2, 0), (3, 0)]]


def test_a_session_that_is_idle_between_statements_is_ended_by_the_server(runtime: Runtime) -> None:
    with runtime.reader.connect() as onlooker, pytest.raises(OperationalError, match="connection"):
        sleep_between(runtime, onlooker)


def sleep_between(runtime: Runtime, onlooker: Connection) -> None:
    with runtime.writer.connect() as connection, pipelined(connection), connection.begin():
        connection.execute(text("SET idle_in_transaction_session_timeout = '100ms'"))
        checkpoint_table.claim(connection, Checkpoint(0))
        wait_until(lambda: not _in_transaction(onlooker), "the server ends the session")
        fetch(connection, _READ)


def test_a_connection_that_the_server_closed_is_not_used_again(runtime: Runtime) -> None:
    ended = backend_of(runtime)
    with runtime.reader.connect() as other:
        assert other.scalar(text(f"SELECT pg_terminate_backend({ended}, 10000)"))
    assert backend_of(runtime) != ended


def _waits_for_a_lock(onlooker: Connection) -> bool:
    return bool(onlooker.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def _in_transaction(onlooker: Connection) -> bool:
    here = "datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
    return bool(onlooker.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {here}")))

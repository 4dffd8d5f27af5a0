"""The connection to PostgreSQL is cut or goes silent at critical moments, and the server restarts or fails over."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from rq.timeouts import JobTimeoutException
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from projections.database.connection import BoundedAsyncConnection, BoundedConnection, run_while_waiting
from projections.database.engines import reader_connection_options
from tests.support.failpoints import fail_at
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, wait_until
from tests.support.workload import Workload
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    made = Proxy(postgres_server.port)
    yield made
    made.close()


@pytest.fixture
def runtime(database_url: str, redis_url: str, postgres_server: PostgresServer, proxy: Proxy) -> Iterator[Runtime]:
    """A runtime that sends every statement through the proxy."""
    made = Runtime.from_environ(
        {
            "DATABASE_URL": database_url.replace("+psycopg", "").replace(str(postgres_server.port), str(proxy.port)),
            "REDIS_URL": redis_url,
            "PROJECTOR_PARTITIONS": "4",
        }
    )
    made.check()
    yield made
    for engine in (made.writer, made.reader):
        engine.dispose()
    made.stream.redis.close()
    made.queue.connection.close()


@pytest.mark.first
@pytest.mark.parametrize("cut", [Proxy.cut_before, Proxy.cut_after])
def test_a_commit_whose_outcome_is_unknown(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cut: Callable[[Proxy, bytes], None]
) -> None:
    work = Workload.load(runtime)
    fail_at(monkeypatch, "before commit", lambda: cut(proxy, b"COMMIT"))
    work.run_until_drained()
    assert proxy.happened == 1
    assert len(work.failures()) == 1
    work.assert_complete()


@pytest.mark.parametrize("point", ["after claim", "inside accept"])
def test_a_connection_cut_inside_a_copy(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """On the way into the event log, or into a read model."""
    work = Workload.load(runtime)
    fail_at(monkeypatch, point, lambda: proxy.cut_before(b"PGCOPY\n"))  # the start of binary COPY data
    work.run_until_drained()
    assert proxy.happened == 1
    assert len(work.failures()) == 1
    work.assert_complete()


@pytest.mark.first
def test_a_statement_without_a_response_times_out(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_timeout_s", 0.5)
    errors: list[str] = []

    def ask() -> None:
        with runtime.writer.connect() as connection:
            proxy.partition()
            with pytest.raises(OperationalError) as raised:
                connection.execute(text("SELECT 1"))
        errors.append(str(raised.value.orig))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(30)
    proxy.close()
    assert errors == ["the server was silent for 0.5 s"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_asynchronous_statement_without_a_response_times_out_and_its_connection_is_closed(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(BoundedAsyncConnection, "answer_timeout_s", 0.5)

    async def ask() -> None:
        async with await BoundedAsyncConnection.connect(**reader_connection_options(runtime.writer)) as connection:
            proxy.partition()
            waiting = asyncio.ensure_future(connection.execute("SELECT 1"))
            if cancelled:
                await asyncio.sleep(0.1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                with pytest.raises(psycopg.OperationalError, match=r"the server was silent for 0\.5 s"):
                    await waiting
            assert connection.closed

    asyncio.run(asyncio.wait_for(ask(), 30))
    proxy.close()


@pytest.mark.parametrize("point", ["after read", "inside accept", "before commit"])
def test_a_database_that_accepts_connections_and_does_not_respond(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Delayed requests arrive later, among them a COMMIT; another drain may have done its work by then, or not."""
    monkeypatch.setattr(BoundedConnection, "answer_timeout_s", 0.5)
    work = Workload.load(runtime)

    def fault() -> None:
        proxy.partition()
        work.end_fault_after_first_failure(end)

    def end() -> None:
        wait_until(work.dispatcher_outages, "the dispatcher has failed too")
        proxy.heal()

    fail_at(monkeypatch, point, fault)
    work.run_until_drained()
    # The pool replaces a pooled connection that does not respond, and the new one cannot be opened either.
    gave_up = ("the server was silent for 0.5 s", "connection timeout expired")
    assert any(each.endswith(gave_up) for each in work.failures())
    assert any(each.endswith(gave_up) for each in work.dispatcher_outages())
    monkeypatch.setattr(BoundedConnection, "answer_timeout_s", 25.0)
    work.assert_complete()


def test_both_ends_notice_a_dead_connection(runtime: Runtime) -> None:
    """No cable can be pulled here, so this checks the socket options on both ends."""
    for engine in (runtime.writer, runtime.reader):
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, BoundedConnection)
            assert driver.answer_timeout_s == 25
            with socket.socket(fileno=os.dup(driver.fileno())) as wire:
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
            assert connection.scalar(text("SHOW tcp_keepalives_idle")) == "5"


def test_a_job_timeout_during_a_statement_is_reported_as_a_timeout(runtime: Runtime) -> None:
    """RQ raises it in the running code: it must propagate, and the connection must not be used again."""

    def limit(_number: int, _frame: object) -> None:
        raise JobTimeoutException

    runtime.writer.connect().close()  # or it might hit while one is opened
    before = signal.signal(signal.SIGALRM, limit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(JobTimeoutException), runtime.writer.begin() as connection:
            connection.execute(text("SELECT pg_sleep(60)"))
    finally:
        signal.signal(signal.SIGALRM, before)
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_other_work_runs_while_a_statement_is_awaited_and_not_afterwards(runtime: Runtime) -> None:
    done: list[str] = []

    def step() -> bool:
        done.append("a step")
        return len(done) < 3

    with runtime.writer.begin() as connection, run_while_waiting(step):
        assert connection.scalar(text("SELECT 7 FROM pg_sleep(0.1)")) == 7
    assert len(done) == 3  # no further wait calls it once it is finished
    asked = len(done)
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT 7")) == 7
    assert len(done) == asked


@pytest.mark.parametrize("error", [JobTimeoutException, MemoryError, KeyboardInterrupt])
def test_an_error_in_that_work_ends_the_statement_and_rolls_back(runtime: Runtime, error: type[BaseException]) -> None:
    def step() -> bool:
        raise error

    def work() -> None:
        with runtime.writer.begin() as connection:
            connection.execute(text("CREATE TABLE cleanup (id int)"))
            with run_while_waiting(step):
                connection.execute(text("SELECT pg_sleep(60)"))

    with pytest.raises(error):
        work()
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT to_regclass('cleanup')")) is None


@pytest.mark.parametrize("ends", ["COPY", "COMMIT"])
def test_an_exception_that_ends_that_work_is_never_taken_for_the_statements_own(runtime: Runtime, ends: str) -> None:
    def step() -> bool:
        raise StopIteration("not the server's answer")

    def work() -> None:
        with runtime.writer.begin() as connection:
            create_slow_table(connection, "DEFERRED" if ends == "COMMIT" else "IMMEDIATE")
            driver: Any = connection.connection.driver_connection
            if ends == "COMMIT":
                connection.execute(text("INSERT INTO slow VALUES (1)"))
                with run_while_waiting(step):
                    connection.commit()
            else:
                with (
                    run_while_waiting(step),
                    driver.cursor() as cursor,
                    cursor.copy("COPY slow FROM STDIN") as copy,
                ):
                    copy.write_row((1,))

    with pytest.raises(RuntimeError, match="StopIteration"):
        work()


def create_slow_table(connection: Connection, check: str) -> None:
    """Create a table whose constraint trigger sleeps, so that COPY or COMMIT cannot end before the other work starts."""
    body = "BEGIN PERFORM pg_sleep(2); RETURN NULL; END"
    connection.execute(text("CREATE TABLE slow (id int)"))
    connection.execute(text(f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS '{body}'"))
    connection.execute(
        text(
            "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON slow"
            f" DEFERRABLE INITIALLY {check} FOR EACH ROW EXECUTE FUNCTION wait()"
        )
    )


def end_backend(server: PostgresServer) -> None:
    """Kill one backend. PostgreSQL then ends all of them and recovers, because its memory may be damaged."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%'").fetchall()
    assert pids
    os.kill(pids[0][0], signal.SIGKILL)


@pytest.mark.parametrize("point", ["after fold", "after commit"])
@pytest.mark.parametrize("down", [PostgresServer.stop, PostgresServer.kill])
def test_a_server_that_stops_and_starts_again(
    runtime: Runtime,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    down: Callable[[PostgresServer], None],
    point: str,
) -> None:
    """A fast restart, and a crash of everything at once."""
    work = Workload.load(runtime)
    process = postgres_server.process

    def fault() -> None:
        down(postgres_server)
        work.end_fault_after_first_failure(postgres_server.start)

    fail_at(monkeypatch, point, fault)
    work.run_until_drained()
    assert postgres_server.process is not process
    assert work.failures()
    work.assert_complete()


def test_a_killed_backend_ends_all_other_sessions(
    runtime: Runtime, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL then recovers from its log, because its memory may be damaged."""
    work = Workload.load(runtime)
    with psycopg.connect(postgres_server.url()) as bystander:

        def fault() -> None:
            end_backend(postgres_server)
            wait_until(lambda: is_lost(bystander), "the other session is lost too")

        fail_at(monkeypatch, "after fold", fault)
        work.run_until_drained()
    assert work.failures()
    work.assert_complete()


def is_lost(connection: "psycopg.Connection[object]") -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_a_server_that_is_shutting_down(
    runtime: Runtime, database_url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """57P03: the server waits for a session to end and accepts no new ones."""
    work = Workload.load(runtime)
    process = postgres_server.process
    assert process is not None
    lingering = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)

    def fault() -> None:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not lets_in(postgres_server), "the server accepts no connection")
        lingering.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )
        work.end_fault_after_first_failure(leave)

    def leave() -> None:
        wait_until(lambda: any("shutting down" in each for each in work.failures()), "a drain is refused")
        lingering.close()
        process.wait(30)
        postgres_server.start()

    fail_at(monkeypatch, "after commit", fault)
    work.run_until_drained()
    work.assert_complete()


def lets_in(server: PostgresServer) -> bool:
    try:
        psycopg.connect(server.url()).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def standby(postgres_server: PostgresServer, database_url: str) -> Iterator[PostgresServer]:
    """A standby of the server; the server is restarted afterwards."""
    made = PostgresServer(standby_of=postgres_server)
    made.start()
    yield made
    made.remove()
    if postgres_server.process is not None and postgres_server.process.poll() is not None:
        postgres_server.start()


def test_a_failover_to_a_standby_that_is_first_read_only(
    runtime: Runtime,
    postgres_server: PostgresServer,
    standby: PostgresServer,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """25006, until the standby is promoted."""
    work = Workload.load(runtime)

    def fault() -> None:
        postgres_server.stop()  # sends everything to the standby first
        proxy.target_port = standby.port
        work.end_fault_after_first_failure(promote)

    def promote() -> None:
        wait_until(lambda: any("ReadOnly" in each for each in work.failures()), "a drain gets a read-only error")
        standby.execute("SELECT pg_promote()")

    fail_at(monkeypatch, "after fold", fault)
    work.run_until_drained()
    work.assert_complete()


def test_a_failover_to_a_standby_that_lacks_the_last_commits(
    runtime: Runtime,
    postgres_server: PostgresServer,
    standby: PostgresServer,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoints move back; the streams still contain the entries after them."""
    work = Workload.load(runtime)
    committed: list[int] = []

    def left_behind() -> None:
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not receivers(standby), "the standby is disconnected")

    def fault() -> None:
        committed.append(events_in(postgres_server, runtime))
        postgres_server.kill()
        standby.execute("SELECT pg_promote()")
        committed.append(events_in(standby, runtime))
        proxy.target_port = standby.port
        work.highest = []

    fail_at(monkeypatch, "after commit", left_behind, number=2)
    fail_at(monkeypatch, "after commit", fault, number=5)
    work.run_until_drained()
    assert committed[0] > committed[1]
    work.assert_complete()


def receivers(standby: PostgresServer) -> list[object]:
    with psycopg.connect(standby.url()) as connection:
        return list(connection.execute("SELECT pid FROM pg_stat_wal_receiver"))


def events_in(server: PostgresServer, runtime: Runtime) -> int:
    with psycopg.connect(server.url(str(runtime.writer.url.database))) as connection:
        row = connection.execute("SELECT count(*) FROM event_log").fetchone()
        assert row is not None
        return int(row[0])

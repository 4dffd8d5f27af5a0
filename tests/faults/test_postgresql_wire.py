"""The wire to PostgreSQL is cut, or goes silent, at the worst moments; and the server behind it goes down or over."""

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
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from projections.database.connection import BoundedAsyncConnection, BoundedConnection, run_while_waiting
from projections.database.engines import reader_options
from tests.support.outages import Work
from tests.support.points import strike
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, wait_until
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    made = Proxy(postgres_server.port)
    yield made
    made.close()


@pytest.fixture
def runtime(database_url: str, redis_url: str, postgres_server: PostgresServer, proxy: Proxy) -> Iterator[Runtime]:
    """A runtime whose every statement passes through the proxy."""
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
def test_a_commit_whose_outcome_nobody_knows(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cut: Callable[[Proxy, bytes], None]
) -> None:
    work = Work.load(runtime)
    strike(monkeypatch, "before commit", lambda: cut(proxy, b"COMMIT"))
    work.until_dry()
    assert proxy.happened == 1
    assert len(work.failures()) == 1
    work.assert_whole()


@pytest.mark.parametrize("point", ["after claim", "inside accept"])
def test_a_connection_cut_inside_a_copy(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """On the way into the event log, or into a read model."""
    work = Work.load(runtime)
    strike(monkeypatch, point, lambda: proxy.cut_before(b"PGCOPY\n"))  # what the data of a binary COPY begins with
    work.until_dry()
    assert proxy.happened == 1
    assert len(work.failures()) == 1
    work.assert_whole()


@pytest.mark.first
def test_a_statement_that_is_never_answered_is_given_up(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_within_s", 0.5)
    told: list[str] = []

    def ask() -> None:
        with runtime.writer.connect() as connection:
            proxy.partition()
            with pytest.raises(OperationalError) as raised:
                connection.execute(text("SELECT 1"))
        told.append(str(raised.value.orig))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(30)
    proxy.close()
    assert told == ["the server was silent for 0.5 s"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_event_loop_gives_up_a_statement_too_and_the_connection_with_it(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(BoundedAsyncConnection, "answer_within_s", 0.5)

    async def ask() -> None:
        async with await BoundedAsyncConnection.connect(**reader_options(runtime.writer.url)) as connection:
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
def test_a_database_that_accepts_and_does_not_answer(
    runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """What was held back arrives later, a COMMIT among it: somebody else may have done its work by then, or not."""
    monkeypatch.setattr(BoundedConnection, "answer_within_s", 0.5)
    work = Work.load(runtime)

    def fault() -> None:
        proxy.partition()
        work.end_when_noticed(end)

    def end() -> None:
        wait_until(work.dispatcher_outages, "the dispatcher has noticed too")
        proxy.heal()

    strike(monkeypatch, point, fault)
    work.until_dry()
    # A pooled connection that is silent when it is looked at makes way for a new one, which cannot be had either.
    gave_up = ("the server was silent for 0.5 s", "connection timeout expired")
    assert any(each.endswith(gave_up) for each in work.failures())
    assert any(each.endswith(gave_up) for each in work.dispatcher_outages())
    monkeypatch.setattr(BoundedConnection, "answer_within_s", 25.0)
    work.assert_whole()


def test_both_ends_of_a_dead_wire_notice(runtime: Runtime) -> None:
    """A real cable cannot be pulled here; so this looks at what the kernels were told."""
    for engine in (runtime.writer, runtime.reader):
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, BoundedConnection)
            assert driver.answer_within_s == 25
            with socket.socket(fileno=os.dup(driver.fileno())) as wire:
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
            assert connection.scalar(text("SHOW tcp_keepalives_idle")) == "5"


def test_a_time_limit_that_strikes_while_a_statement_runs_is_seen_as_such(runtime: Runtime) -> None:
    """RQ throws it into whatever runs: it must come out again, and the connection must not be used any more."""

    def limit(_number: int, _frame: object) -> None:
        raise JobTimeoutException

    runtime.writer.connect().close()  # or it might strike while one is made
    before = signal.signal(signal.SIGALRM, limit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(JobTimeoutException), runtime.writer.begin() as connection:
            connection.execute(text("SELECT pg_sleep(60)"))
    finally:
        signal.signal(signal.SIGALRM, before)
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_while_a_statement_is_waited_for_other_work_is_done_and_no_longer(runtime: Runtime) -> None:
    done: list[str] = []

    def step() -> bool:
        done.append("a step")
        return len(done) < 3

    with runtime.writer.begin() as connection, run_while_waiting(step):
        assert connection.scalar(text("SELECT 7 FROM pg_sleep(0.1)")) == 7
    assert len(done) == 3  # no further wait asks, once there is no more
    asked = len(done)
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT 7")) == 7
    assert len(done) == asked


@pytest.mark.parametrize("error", [JobTimeoutException, MemoryError, KeyboardInterrupt])
def test_what_goes_wrong_in_that_work_ends_the_statement_and_rolls_back(
    runtime: Runtime, error: type[BaseException]
) -> None:
    def step() -> bool:
        raise error

    def work() -> None:
        with runtime.writer.begin() as connection:
            connection.execute(text("CREATE TABLE left_over (id int)"))
            with run_while_waiting(step):
                connection.execute(text("SELECT pg_sleep(60)"))

    with pytest.raises(error):
        work()
    with runtime.writer.begin() as connection:
        assert connection.scalar(text("SELECT to_regclass('left_over')")) is None


@pytest.mark.parametrize("ends", ["COPY", "COMMIT"])
def test_no_end_of_that_work_passes_for_the_statements_own(runtime: Runtime, ends: str) -> None:
    def step() -> bool:
        raise StopIteration("not the server's answer")

    def work() -> None:
        with runtime.writer.begin() as connection:
            connection.execute(text("CREATE TABLE left_over (id int)"))
            driver: Any = connection.connection.driver_connection
            if ends == "COMMIT":
                with run_while_waiting(step):
                    connection.commit()
            else:
                with (
                    run_while_waiting(step),
                    driver.cursor() as cursor,
                    cursor.copy("COPY left_over FROM STDIN") as copy,
                ):
                    copy.write_row((1,))

    with pytest.raises(RuntimeError, match="StopIteration"):
        work()


def end_backend(server: PostgresServer) -> None:
    """Kill one backend: PostgreSQL then ends all of them and recovers from its log, as its memory may be damaged."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%'").fetchall()
    assert pids
    os.kill(pids[0][0], signal.SIGKILL)


@pytest.mark.parametrize("point", ["after fold", "after commit"])
@pytest.mark.parametrize("down", [PostgresServer.stop, PostgresServer.kill])
def test_a_server_that_goes_down_and_comes_back(
    runtime: Runtime,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    down: Callable[[PostgresServer], None],
    point: str,
) -> None:
    """A fast restart, and a crash of everything at once."""
    work = Work.load(runtime)
    process = postgres_server.process

    def fault() -> None:
        down(postgres_server)
        work.end_when_noticed(postgres_server.start)

    strike(monkeypatch, point, fault)
    work.until_dry()
    assert postgres_server.process is not process
    assert work.failures()
    work.assert_whole()


def test_a_backend_that_is_killed_takes_all_others_with_it(
    runtime: Runtime, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL recovers from its log then, as its memory may be damaged."""
    work = Work.load(runtime)
    with psycopg.connect(postgres_server.url()) as bystander:

        def fault() -> None:
            end_backend(postgres_server)
            wait_until(lambda: is_lost(bystander), "the bystander's session is lost too")

        strike(monkeypatch, "after fold", fault)
        work.until_dry()
    assert work.failures()
    work.assert_whole()


def is_lost(connection: "psycopg.Connection[object]") -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_a_server_that_is_shutting_down(
    runtime: Runtime, database_url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """57P03: it waits for somebody to leave, and lets nobody in."""
    work = Work.load(runtime)
    process = postgres_server.process
    assert process is not None
    lingering = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)

    def fault() -> None:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not lets_in(postgres_server), "nobody is let in")
        lingering.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )
        work.end_when_noticed(leave)

    def leave() -> None:
        wait_until(lambda: any("shutting down" in each for each in work.failures()), "a drain is not let in")
        lingering.close()
        process.wait(30)
        postgres_server.start()

    strike(monkeypatch, "after commit", fault)
    work.until_dry()
    work.assert_whole()


def lets_in(server: PostgresServer) -> bool:
    try:
        psycopg.connect(server.url()).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def standby(postgres_server: PostgresServer, database_url: str) -> Iterator[PostgresServer]:
    """A standby that follows the server; the server is brought back afterwards."""
    made = PostgresServer(standby_of=postgres_server)
    made.start()
    yield made
    made.remove()
    if postgres_server.process is not None and postgres_server.process.poll() is not None:
        postgres_server.start()


def test_a_failover_to_a_standby_that_is_read_only_at_first(
    runtime: Runtime,
    postgres_server: PostgresServer,
    standby: PostgresServer,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """25006, until the standby is promoted."""
    work = Work.load(runtime)

    def fault() -> None:
        postgres_server.stop()  # hands all it has to the standby first
        proxy.target_port = standby.port
        work.end_when_noticed(promote)

    def promote() -> None:
        wait_until(lambda: any("ReadOnly" in each for each in work.failures()), "a drain finds it read-only")
        standby.execute("SELECT pg_promote()")

    strike(monkeypatch, "after fold", fault)
    work.until_dry()
    work.assert_whole()


def test_a_failover_to_a_standby_that_lacks_the_last_commits(
    runtime: Runtime,
    postgres_server: PostgresServer,
    standby: PostgresServer,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoints go back in time then; the streams still hold what lies behind them."""
    work = Work.load(runtime)
    committed: list[int] = []

    def left_behind() -> None:
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not receivers(standby), "the standby is cut off")

    def fault() -> None:
        committed.append(events_in(postgres_server, runtime))
        postgres_server.kill()
        standby.execute("SELECT pg_promote()")
        committed.append(events_in(standby, runtime))
        proxy.target_port = standby.port
        work.highest = []

    strike(monkeypatch, "after commit", left_behind, number=2)
    strike(monkeypatch, "after commit", fault, number=5)
    work.until_dry()
    assert committed[0] > committed[1]
    work.assert_whole()


def receivers(standby: PostgresServer) -> list[object]:
    with psycopg.connect(standby.url()) as connection:
        return list(connection.execute("SELECT pid FROM pg_stat_wal_receiver"))


def events_in(server: PostgresServer, runtime: Runtime) -> int:
    with psycopg.connect(server.url(str(runtime.writer.url.database))) as connection:
        row = connection.execute("SELECT count(*) FROM event_log").fetchone()
        assert row is not None
        return int(row[0])

"""Fixtures: one Redis and one PostgreSQL for each test process, a new database and an empty Redis for each test."""

import random
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Engine

from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from migrations import migrate_database
from projections.database.engines import reader_engine, writer_engine
from projections.settings import DatabaseSettings
from tests.support.processes import Start, environ_of, start_module
from tests.support.servers import PostgresServer, RedisServer, cleanup
from tests.support.tiers import TIERS, is_in, is_left_out
from workers.jobs.queue import drain_queue
from workers.maintenance import verify_jobs
from workers.runtime import Runtime, redis_client

PARTITIONS = 4
# No deadline, because a busy machine is not a failure. The full tier runs all examples.
settings.register_profile("few", deadline=None, max_examples=20)
settings.register_profile("all", deadline=None)
settings.load_profile("few")
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=TIERS, help="Run the tests of one tier only; see tests/support/tiers.py.")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose Hypothesis's seed before its plugin looks for it; a worker of pytest-xdist gets the one chosen before."""
    # A shell that starts the tests in the background has SIGINT ignored, and the processes under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given: dict[str, Any] = getattr(config, "workerinput", {})
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = given.get("hypothesis_seed", random.randrange(2**32))
    if config.getoption("--tier") == "full":
        settings.load_profile("all")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["hypothesis_seed"] = node.config.getoption("--hypothesis-seed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_left_out(item)]
    tier = config.getoption("--tier")
    if tier is not None:
        config.hook.pytest_deselected(items=[item for item in items if not is_in(item, tier)])
        items[:] = [item for item in items if is_in(item, tier)]


def pytest_sessionfinish() -> None:
    cleanup.close()


def pytest_report_header(config: pytest.Config) -> str:
    return _seed_of(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("to repeat it", _seed_of(item.config)))
    return report


def _seed_of(config: pytest.Config) -> str:
    return f"--hypothesis-seed={config.getoption('--hypothesis-seed')}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    if redis_server.process is None or redis_server.process.poll() is not None:
        redis_server.start()
    client = redis_client(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    server.execute("CREATE DATABASE migrated")
    migrate_database(sqlalchemy_url(server.url("migrated")), PARTITIONS)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate_database(f"sqlite:///{file}", PARTITIONS)
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    file = tmp_path / "projector.db"
    shutil.copyfile(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
    yield sqlalchemy_url(postgres_server.url(name))
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def schema_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database whose tables are in another schema than public, which no search_path contains."""
    name = f"test_{next(_numbers)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    url = sqlalchemy_url(postgres_server.url(name), PROJECTOR_SCHEMA="read_models")
    migrate_database(url, PARTITIONS)
    yield url
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql", "schema"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database; the test runs on both kinds. `schema` is PostgreSQL with another schema than public."""
    name = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "schema": "schema_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def writer(database_url: str) -> Iterator[Engine]:
    engine = writer_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def reader(database_url: str) -> Iterator[Engine]:
    engine = reader_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def runtime(redis_url: str, writer: Engine, reader: Engine) -> Iterator[Runtime]:
    made = Runtime(
        settings=StreamSettings(partitions=PARTITIONS),
        stream=Stream(redis_client(redis_url), PARTITIONS),
        writer=writer,
        reader=reader,
        queue=drain_queue(redis_client(redis_url)),
    )
    made.check()
    made.queue.connection.set(verify_jobs.SCHEDULED_KEY, "just done")  # so that the queue contains drains only
    yield made
    made.stream.redis.close()
    made.queue.connection.close()


@pytest.fixture
def start(runtime: Runtime, database_url: str, redis_url: str) -> Iterator[Start]:
    """Start modules as processes on the test's servers; they are killed at the end of the test."""
    environ = environ_of(database_url, redis_url)
    started: list[subprocess.Popen[bytes]] = []

    def call(module: str, *arguments: str, **changed: str) -> "subprocess.Popen[bytes]":
        started.append(start_module(environ | changed, module, *arguments))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()


def sqlalchemy_url(url: str, **environ: str) -> str:
    return DatabaseSettings.from_environ({"DATABASE_URL": url} | environ).database_url

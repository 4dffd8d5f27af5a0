"""Migrations: from empty, from the revision before, with data, twice, at once; and their end is what the code says."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from cli.migrate import migrate_database
from event_stream.stream import PartitionsMismatchError
from migrations import config, upgrade
from projections import schema
from projections.schema import SchemaTooOldError
from projections.store import metadata, writer_engine
from projections.sums import fingerprint_of
from tests.conftest import sqlalchemy_url
from tests.support.commands import carry_out
from tests.support.servers import PostgresServer

_numbers = count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('tmp_path')}/empty.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"empty_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    yield sqlalchemy_url(server.url(name))
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Engine]:
    engine = writer_engine(empty_url)
    yield engine
    engine.dispose()


def test_the_newest_revision_is_the_one_the_code_needs(empty: Engine) -> None:
    assert ScriptDirectory.from_config(config(empty)).get_current_head() == schema.REVISION


def test_from_empty_the_schema_is_what_the_code_says(empty: Engine) -> None:
    upgrade(empty)
    with empty.connect() as connection:
        schema.check(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_each_revision_follows_the_one_before_and_keeps_its_data(empty: Engine) -> None:
    script = ScriptDirectory.from_config(config(empty))
    revisions = [revision.revision for revision in reversed(list(script.walk_revisions()))]
    assert revisions == sorted(revisions)
    upgrade(empty, revisions[0])
    with empty.begin() as connection:
        connection.execute(
            text("INSERT INTO event_log VALUES ('t', 'i', 0, 1, 'analysis.created.v1', 'p', 5, :body)"), {"body": b"{}"}
        )
        with pytest.raises(SchemaTooOldError, match="projector migrate"):
            schema.check(connection)
    for revision in revisions[1:]:
        upgrade(empty, revision)
        if revision == "0002":
            with empty.begin() as connection:
                connection.execute(
                    text("INSERT INTO analysis_trend VALUES ('t', 'p', 1, '[[0,1]]'), ('t', 'q', 0, '[]')")
                )
    with empty.connect() as connection:
        sums = connection.execute(text("SELECT events, fingerprint FROM analysis_trend ORDER BY project_id")).all()
        assert sums == [(1, fingerprint_of("i")), (0, 0)]
        assert connection.scalar(text("SELECT time_us FROM event_log")) == 5
        schema.check(connection)


def test_an_empty_database_is_told_to_migrate(empty: Engine) -> None:
    with empty.connect() as connection, pytest.raises(SchemaTooOldError, match="missing"):
        schema.check(connection)


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    migrate_database(empty_url, 4)
    migrate_database(empty_url, 4)


def test_another_number_of_partitions_is_refused(empty_url: str) -> None:
    migrate_database(empty_url, 4)
    with pytest.raises(PartitionsMismatchError, match="PROJECTOR_PARTITIONS=4"):
        migrate_database(empty_url, 8)


def test_two_at_once_wait_for_each_other(empty_url: str) -> None:
    environ = os.environ | {"DATABASE_URL": empty_url.replace("+psycopg", ""), "PROJECTOR_PARTITIONS": "4"}
    with ThreadPoolExecutor(4) as executor:
        done = list(executor.map(lambda _: carry_out(environ, "migrate"), range(4)))
    assert [each.returncode for each in done] == [0] * 4, done
    migrate_database(empty_url, 4)


def test_postgresql_keys_compare_byte_by_byte_and_hot_rows_leave_room(postgres_url: str) -> None:
    engine = writer_engine(postgres_url)
    columns = {column["name"]: column["type"] for column in inspect(engine).get_columns("activity")}
    assert getattr(columns["event_id"], "collation", None) == "C"
    with engine.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE relname = 'analysis_trend'"))
    assert options == ["fillfactor=70"]
    engine.dispose()

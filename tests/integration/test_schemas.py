"""PROJECTOR_SCHEMA: deployments in schemas of their own, beside other applications and one another."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from event_stream.settings import SettingsError
from migrations import lock_wait, migrate_database
from projections.database.table_names import lock_number
from projections.settings import DatabaseSettings
from tests.conftest import PARTITIONS, sqlalchemy_url
from tests.support.commands import run_command
from tests.support.events import mixed
from tests.support.harness import append, closing_runtime, drain_all, dump, totals
from tests.support.processes import environ_of
from tests.support.servers import PostgresServer
from workers.runtime import Runtime

SCHEMAS = ("first", "second")


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database without tables."""
    postgres_server.execute("CREATE DATABASE shared")
    yield postgres_server.url("shared")
    postgres_server.execute("DROP DATABASE shared WITH (FORCE)")


def tables(url: str) -> set[tuple[Any, ...]]:
    """Return the schema and name of every table."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        )


def test_two_deployments_in_one_database_do_not_disturb_each_other(empty_database: str, redis_url: str) -> None:
    with ExitStack() as stack:
        runtimes = []
        for number, name in enumerate(SCHEMAS):
            environ = environ_of(empty_database, redis_url.replace("/0", f"/{number}")) | {"PROJECTOR_SCHEMA": name}
            assert run_command(environ, "migrate").returncode == 0
            runtimes.append(stack.enter_context(closing_runtime(Runtime.from_environ(environ))))
        for runtime, count in zip(runtimes, (300, 200), strict=True):
            append(runtime, *mixed(count, tenants=4, projects=3))
        for runtime in runtimes:
            drain_all(runtime)
        assert [totals(runtime)["read"] for runtime in runtimes] == [300, 200]
        assert dump(runtimes[0].reader) != dump(runtimes[1].reader)
        for name in SCHEMAS:
            assert run_command(environ | {"PROJECTOR_SCHEMA": name}, "verify").returncode == 0
            assert run_command(environ | {"PROJECTOR_SCHEMA": name}, "rebuild", "--processes", "2").returncode == 0
    assert {schema for schema, _ in tables(empty_database)} == set(SCHEMAS)


def test_a_migration_of_one_schema_does_not_wait_for_that_of_another(empty_database: str, redis_url: str) -> None:
    environ = environ_of(empty_database, redis_url)
    with psycopg.connect(empty_database) as other:
        for name in ("public", "first"):
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", [lock_wait._MIGRATION_LOCK, lock_number(name)])
        done = run_command(environ | {"PROJECTOR_SCHEMA": "second"}, "migrate", "--lock-wait", "1")
        assert done.returncode == 0, done.stderr
        assert run_command(environ | {"PROJECTOR_SCHEMA": "first"}, "migrate", "--lock-wait", "1").returncode == 1


@pytest.mark.parametrize("command", ["migrate", "worker", "dispatcher", "verify", "status"])
def test_a_table_of_another_application_is_named_with_the_way_out(
    empty_database: str, redis_url: str, command: str
) -> None:
    with psycopg.connect(empty_database) as other:
        other.execute("CREATE TABLE project (id int)")
    environ = environ_of(empty_database, redis_url)
    done = run_command(environ, command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "schema public of the database has the table `project`" in line
    assert "PROJECTOR_SCHEMA to a new schema" in line
    assert tables(empty_database) == {("public", "project")}


def test_beside_another_application_a_schema_of_its_own_is_used(empty_database: str) -> None:
    with psycopg.connect(empty_database) as other:
        other.execute("CREATE TABLE project (id int)")
        other.execute("CREATE TABLE alembic_version (version_num text)")
    migrate_database(sqlalchemy_url(empty_database, PROJECTOR_SCHEMA="own"), PARTITIONS)
    assert {name for schema, name in tables(empty_database) if schema == "public"} == {"project", "alembic_version"}
    assert ("own", "project") in tables(empty_database)


@pytest.mark.parametrize("name", ["pg_own", "Own", "a-b", "information_schema", '"a"', "x" * 64])
def test_a_name_that_needs_quotes_or_belongs_to_postgresql_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="PROJECTOR_SCHEMA: must be at most 63 lower-case letters"):
        DatabaseSettings.from_environ({"DATABASE_URL": "postgresql://h/db", "PROJECTOR_SCHEMA": name})


@pytest.mark.parametrize("url", [{}, {"DATABASE_URL": "sqlite:///some.db"}])
def test_sqlite_has_no_schemas(url: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="SQLite has no schemas"):
        DatabaseSettings.from_environ({"PROJECTOR_SCHEMA": "own"} | url)
    DatabaseSettings.from_environ({"PROJECTOR_SCHEMA": "public"} | url)

"""Migrations from empty, to a later revision, repeated, and concurrent; refusals; and the schema equals the code's."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from textwrap import dedent, indent

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

import migrations
from event_stream.streams.stream import PartitionsMismatchError
from migrations import config, migrate_database, upgrade
from projections import schema
from projections.database.columns import metadata
from projections.database.engines import writer_engine
from projections.schema import ForeignSchemaError, SchemaTooOldError
from tests.conftest import sqlalchemy_url
from tests.support.commands import run_command
from tests.support.servers import PostgresServer

MIGRATIONS = Path(migrations.__file__).parent
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


def test_migrating_from_empty_creates_the_schema_of_the_code(empty: Engine) -> None:
    upgrade(config(empty))
    with empty.connect() as connection:
        schema.check(connection)
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def with_later_revision(engine: Engine, directory: Path, body: str) -> Config:
    """Return the configuration of a release that has one more revision, 9999, with this body."""
    shutil.copytree(MIGRATIONS, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "versions" / "9999_later.py").write_text(
        f"""import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{schema.REVISION}"


def upgrade() -> None:
{indent(dedent(body), "    ")}"""
    )
    configuration = config(engine)
    configuration.set_main_option("script_location", str(directory))
    return configuration


def test_a_later_revision_keeps_the_data_and_this_release_accepts_it(
    empty: Engine, empty_url: str, tmp_path: Path
) -> None:
    upgrade(config(empty))
    with empty.begin() as connection:
        connection.execute(
            text("INSERT INTO event_log VALUES ('t', 'i', 0, 1, 'analysis.created.v1', 'p', 5, :body)"), {"body": b"{}"}
        )
    later = """
        op.add_column("event_log", sa.Column("later", sa.Text))
        op.execute("UPDATE event_log SET later = type")
        """
    upgrade(with_later_revision(empty, tmp_path / "later", later))
    with empty.connect() as connection:
        row = connection.execute(text("SELECT time_us, later FROM event_log")).one()
        assert row == (5, "analysis.created.v1")
        schema.check(connection)
    assert migrate_database(empty_url, 4) == "9999"


def test_a_revision_that_fails_changes_nothing(empty: Engine, tmp_path: Path) -> None:
    upgrade(config(empty))
    failing = """
        op.create_table("later", sa.Column("id", sa.Integer))
        op.execute("UPDATE nothing SET x = 1")
        """
    with pytest.raises(DBAPIError, match="nothing"):
        upgrade(with_later_revision(empty, tmp_path / "failing", failing))
    assert not inspect(empty).has_table("later")
    with empty.connect() as connection:
        assert schema.current_revision(connection) == schema.REVISION


@pytest.mark.parametrize("stored", ["0001", "0006"])
def test_a_database_from_before_the_first_release_is_refused_and_left_unchanged(
    empty: Engine, empty_url: str, stored: str
) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text(f"INSERT INTO alembic_version VALUES ('{stored}')"))
    with pytest.raises(ForeignSchemaError, match="set DATABASE_URL to a new database"):
        migrate_database(empty_url, 4)
    with empty.connect() as connection, pytest.raises(ForeignSchemaError):
        schema.check(connection)
    assert inspect(empty).get_table_names() == ["alembic_version"]


def test_a_schema_older_than_the_code_needs_is_refused(empty: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(config(empty))
    present = schema.REVISION
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    monkeypatch.setattr(schema, "REVISION", "9999")
    with (
        empty.connect() as connection,
        pytest.raises(SchemaTooOldError, match=rf"is {present}, but .* `projector migrate`"),
    ):
        schema.check(connection)


@pytest.mark.parametrize("revision", ["0000", "e3a1c0ffee42", "99999"])
def test_a_revision_that_no_release_has_is_not_taken_for_a_newer_one(
    empty: Engine, empty_url: str, revision: str
) -> None:
    """As text, most of them are greater than the revision of this release."""
    upgrade(config(empty))
    with empty.begin() as connection:
        connection.execute(text(f"UPDATE projector_schema_version SET version_num = '{revision}'"))
        with pytest.raises(ForeignSchemaError, match=f"revision '{revision}', which no release has"):
            schema.check(connection)
    with pytest.raises(ForeignSchemaError):
        migrate_database(empty_url, 4)


def test_a_table_of_another_application_with_the_name_of_one_of_ours_is_named(empty: Engine, empty_url: str) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE project (id INTEGER)"))
    with pytest.raises(ForeignSchemaError, match="has the table `project` but not `projector_schema_version`"):
        migrate_database(empty_url, 4)
    assert inspect(empty).get_table_names() == ["project"]


def test_the_error_for_an_empty_database_names_migrate(empty: Engine) -> None:
    with empty.connect() as connection, pytest.raises(SchemaTooOldError, match="missing"):
        schema.check(connection)


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    migrate_database(empty_url, 4)
    migrate_database(empty_url, 4)


def test_another_number_of_partitions_is_refused(empty_url: str) -> None:
    migrate_database(empty_url, 4)
    with pytest.raises(PartitionsMismatchError, match="PROJECTOR_PARTITIONS=4"):
        migrate_database(empty_url, 8)


def test_two_concurrent_migrations_run_one_after_the_other(empty_url: str) -> None:
    environ = os.environ | {"DATABASE_URL": empty_url.replace("+psycopg", ""), "PROJECTOR_PARTITIONS": "4"}
    with ThreadPoolExecutor(4) as executor:
        done = list(executor.map(lambda _: run_command(environ, "migrate"), range(4)))
    assert [each.returncode for each in done] == [0] * 4, done
    migrate_database(empty_url, 4)


def test_postgresql_keys_compare_byte_by_byte_and_hot_tables_have_a_fill_factor(postgres_url: str) -> None:
    engine = writer_engine(postgres_url)
    columns = {column["name"]: column["type"] for column in inspect(engine).get_columns("activity")}
    assert getattr(columns["event_id"], "collation", None) == "C"
    with engine.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE relname = 'analysis_trend'"))
    assert options == ["fillfactor=70"]
    engine.dispose()

"""Databases and connections that cannot encode every character: refused, or one dead letter, never a stopped partition."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event as sa_event

from api_stub.auth import keys
from api_stub.auth.keys import KeyId
from api_stub.lookups.postgresql import PostgresqlDatabase
from migrations import config, migrate_database, upgrade
from projections.database.engines import migration_engine
from projections.schema import WrongEncodingError
from projections.transaction import checkpoint_table
from tests.conftest import PARTITIONS, sqlalchemy_url
from tests.support.commands import run_command
from tests.support.events import event
from tests.support.harness import append, closing_runtime, drain_all, dump, stored_dead_letters, totals
from tests.support.processes import environ_of
from tests.support.servers import PostgresServer
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.runtime import Runtime

NAME = "漢字 €uro 🚀"


def created(name: str) -> dict[str, Any]:
    data = {"slug": "checkout", "name": name, "isDefault": False}
    return event("project.created.v1") | {"projectid": str(uuid4()), "data": data}


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def other_encoding(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """The URL and the encoding of a database that is not in UTF-8."""
    encoding: str = request.param
    postgres_server.execute(f"CREATE DATABASE encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    yield sqlalchemy_url(postgres_server.url("encoded")), encoding
    postgres_server.execute("DROP DATABASE encoded WITH (FORCE)")


def test_a_database_in_another_encoding_is_refused_by_migrate_and_reported_by_the_doctor(
    other_encoding: tuple[str, str], redis_url: str
) -> None:
    url, encoding = other_encoding
    with pytest.raises(WrongEncodingError, match=f"encoding is {encoding}.*ENCODING 'UTF8' TEMPLATE template0"):
        migrate_database(url, PARTITIONS)
    with closing(Context.from_environ(environ_of(url, redis_url))) as context:
        found = {finding.code: finding.message for finding in run_checks(context).findings}
    assert found["postgres-encoding"] == f"server_encoding is {encoding}"


@pytest.mark.parametrize("other_encoding", ["LATIN1"], indirect=True)
def test_a_character_that_the_database_cannot_store_parks_its_event_alone(
    other_encoding: tuple[str, str], redis_url: str
) -> None:
    """The database was migrated nevertheless, for example restored from a dump."""
    url, _ = other_encoding
    engine = migration_engine(url)
    upgrade(config(engine))
    with engine.begin() as connection:
        checkpoint_table.create_all(connection, PARTITIONS)
    engine.dispose()
    with closing_runtime(Runtime.from_environ(environ_of(url, redis_url))) as runtime:
        assert_parked_alone(runtime)


def test_a_character_that_the_connection_cannot_encode_parks_its_event_alone(postgres_url: str, redis_url: str) -> None:
    def use_latin1(connection: Any, _record: object) -> None:
        connection.execute("SET client_encoding = 'LATIN1'")
        connection.commit()

    with closing_runtime(Runtime.from_environ(environ_of(postgres_url, redis_url))) as runtime:
        sa_event.listen(runtime.writer, "connect", use_latin1)
        assert_parked_alone(runtime)


def assert_parked_alone(runtime: Runtime) -> None:
    append(runtime, created("before"), created(NAME), created("after"))
    drain_all(runtime)
    assert [letter.reason for letter in stored_dead_letters(runtime)] == ["fold_failed"]
    assert totals(runtime) == {"read": 3, "applied": 2, "duplicates": 0, "dead_lettered": 1, "lost": 0}


@pytest.mark.parametrize("parameter", ["", "?client_encoding=LATIN1"])
def test_every_character_is_stored_and_read_whatever_pgclientencoding_says(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, parameter: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    postgres_url += parameter
    with closing_runtime(Runtime.from_environ(environ_of(postgres_url, redis_url))) as runtime:
        append(runtime, created(NAME))
        drain_all(runtime)
        assert NAME in dump(runtime.reader)["project"][0]
        assert stored_dead_letters(runtime) == []
        with closing(PostgresqlDatabase(runtime.reader)) as database:
            assert asyncio.run(database.read(keys.lookup, [KeyId(NAME)])) == {}
    assert run_command(environ_of(postgres_url, redis_url), "verify").returncode == 0

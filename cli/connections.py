"""How commands connect to the database and Redis, and check that both fit this release."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from cli.output import CliError
from event_stream.producer import Producer
from event_stream.settings import StreamSettings
from event_stream.streams.deployment import DeploymentMismatchError, DeploymentPin
from event_stream.streams.stream import Stream
from projections import schema
from projections.database.engines import reader_engine, report_engine, writer_engine
from projections.error_classes import describe
from projections.settings import DatabaseSettings
from projections.transaction import deployment_table
from workers import deployment
from workers.runtime import REPORT_DATABASE_TIMEOUT_S, Runtime, redis_client
from workers.settings import RedisSettings

RETRY_S = 1.0
CHECK_TIMEOUT_S = 1.0

log = structlog.get_logger()


def open_writer() -> Engine:
    """Return an engine that writes. Raises CliError or SchemaTooOldError if the database is missing or too old.

    Raises DeploymentMismatchError if Redis belongs to another deployment.
    """
    engine = writer_engine(existing_database_url())
    deployment_table.pin(engine, DeploymentPin())
    _check_schema(engine)
    _refuse_other_deployment(engine, os.environ)
    return engine


def open_reader() -> Engine:
    """Return an engine that only reads. Raises as `open_writer` does."""
    engine = reader_engine(existing_database_url())
    _check_schema(engine)
    return engine


def open_report_reader() -> Engine:
    """Return an engine for a short report, which does not wait for a silent server. Raises as `open_reader` does."""
    engine = report_engine(existing_database_url(), REPORT_DATABASE_TIMEOUT_S)
    _check_schema(engine)
    return engine


def make_producer(environ: Mapping[str, str]) -> Producer:
    """Return a producer for the Redis server that the environment names.

    Raises DeploymentMismatchError if there is a database and it belongs to another deployment.
    """
    settings = StreamSettings.from_environ(environ)
    pin = DeploymentPin()
    _pin_to_database(pin, environ)
    client = redis_client(RedisSettings.from_environ(environ).redis_url, pin=pin)
    return Producer(Stream(client, settings.partitions), settings)


def _refuse_other_deployment(engine: Engine, environ: Mapping[str, str]) -> None:
    """Raise DeploymentMismatchError if the database and Redis belong to different deployments.

    The callers need only the database, so it is not an error if Redis is not configured or does not answer.
    """
    with engine.connect() as connection:
        if not environ.get("REDIS_URL") or schema.current_revision(connection) is None:
            return
    client = redis_client(RedisSettings.from_environ(environ).redis_url, CHECK_TIMEOUT_S, retries=0)
    try:
        deployment.read(engine, client).check()
    except DeploymentMismatchError:
        raise
    except RedisError as error:
        log.warning("deployment.not_checked", error=describe(error))
    finally:
        client.close()


def refuse_other_database(environ: Mapping[str, str]) -> None:
    """Raise DeploymentMismatchError, before a migration, if Redis belongs to another deployment than the database."""
    engine = writer_engine(DatabaseSettings.from_environ(environ).database_url)
    try:
        _refuse_other_deployment(engine, environ)
    finally:
        engine.dispose()


def await_servers(runtime: Runtime, should_stop: Callable[[], bool]) -> None:
    """Wait until Redis and the database answer. Raises if the deployment does not fit this release or its settings."""
    while not should_stop():
        try:
            runtime.check()
        except DeploymentMismatchError:
            raise
        except (RedisError, SQLAlchemyError) as error:
            log.warning("startup.waiting", error=describe(error))
            time.sleep(RETRY_S)
        else:
            return


def existing_database_url() -> str:
    """Return the URL of the database; raises CliError if it is an SQLite file that does not exist."""
    url = DatabaseSettings.from_environ(os.environ).database_url
    file = make_url(url).database
    if url.startswith("sqlite") and file and not Path(file).exists():
        raise CliError(
            f"there is no database at {file}; run `projector migrate`, or change to the directory that has the data"
        )
    return url


def _pin_to_database(pin: DeploymentPin, environ: Mapping[str, str]) -> None:
    """Pin to the deployment of the database, if there is a database that can be read; appending does not need it."""
    url = DatabaseSettings.from_environ(environ).database_url
    file = make_url(url).database
    if url.startswith("sqlite") and not (file and Path(file).exists()):
        return
    engine = reader_engine(url)
    try:
        with engine.connect() as connection:
            pin.check(deployment_table.read(connection), deployment_table.database_place(engine))
    except SQLAlchemyError as error:
        log.warning("deployment.not_checked", error=describe(error))
    finally:
        engine.dispose()


def _check_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        schema.check(connection)

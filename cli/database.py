"""How commands open the database: one that exists and has the schema they need."""

import os
from pathlib import Path

from sqlalchemy import Engine, make_url

from cli.output import CliError
from projections import schema
from projections.settings import DatabaseSettings
from projections.store import reader_engine, writer_engine


def open_writer() -> Engine:
    """Return an engine that writes; raises CliError or SchemaTooOldError if there is nothing to write to."""
    engine = writer_engine(_existing())
    _check(engine)
    return engine


def open_reader() -> Engine:
    """Return an engine that reads; raises as `open_writer` does."""
    engine = reader_engine(_existing())
    _check(engine)
    return engine


def _existing() -> str:
    url = DatabaseSettings.from_environ(os.environ).database_url
    file = make_url(url).database
    if url.startswith("sqlite") and file and not Path(file).exists():
        raise CliError(f"there is no database at {file}; run `projector migrate`, or is this the wrong folder?")
    return url


def _check(engine: Engine) -> None:
    with engine.connect() as connection:
        schema.check(connection)

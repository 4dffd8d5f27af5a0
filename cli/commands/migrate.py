"""`projector migrate`: the schema of this release, and its read models."""

import os
import random
import sys

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.commands.rebuild import count_events, give_up, side_by_side_in
from cli.connections import open_reader, open_writer
from cli.rendering.rebuild_report import Report, Watch
from event_stream.settings import StreamSettings
from migrations import upgrade
from projections import schema
from projections.database.engines import writer_engine
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings
from projections.transaction import checkpoint, projection_version
from workers.maintenance.parallel import processes_for, run_parallel
from workers.maintenance.rebuild_tenants import Rebuilder


@click.command()
@click.option("--rebuild", "with_rebuild", is_flag=True, help="Also rebuild the rows that another release has made.")
@give_up
@side_by_side_in
@click.option("--json", "as_json", is_flag=True, help="Print the outcome of the rebuild as JSON.")
def migrate(with_rebuild: bool, timeout: float, processes: int | None, as_json: bool) -> None:
    """Create or upgrade the schema.

    With --rebuild, what a new version of a projection, or a new projection, is still to be given is folded from the
    event log, tenant by tenant, while everything else goes on. Run it again if it ends early.
    """
    if (as_json or processes) and not with_rebuild:
        raise click.UsageError("--json and --processes are about a rebuild; add --rebuild.")
    environment.load()
    partitions = StreamSettings.from_environ(os.environ).partitions
    revision = migrate_database(DatabaseSettings.from_environ(os.environ).database_url, partitions)
    click.echo(f"schema is at revision {revision}, {partitions} partitions", err=as_json)
    if with_rebuild and not _rebuild_outdated(partitions, timeout, processes, as_json):
        sys.exit(1)


def migrate_database(database_url: str, partitions: int) -> str | None:
    """Bring a database to the newest schema and return the revision it then has, which may be newer than this release.

    Raises PartitionsMismatchError if it was made with other partitions.
    """
    engine = writer_engine(database_url)
    try:
        # A newer schema is fine, and an older release does not know its revisions.
        with engine.connect() as connection:
            stored = schema.found(connection)
        if stored is None or stored <= schema.REVISION:
            upgrade(engine)
        with engine.begin() as connection:
            checkpoint.create_all(connection, partitions)
            return schema.found(connection)
    finally:
        engine.dispose()


def _rebuild_outdated(partitions: int, timeout_s: float, processes: int | None, as_json: bool) -> bool:
    """Rebuild what is not of this release; returns whether nothing is left to do."""
    writer, reader = open_writer(), open_reader()
    with reader.connect() as connection:
        tenants = projection_version.outdated_tenants(connection, PROJECTIONS)
        total = count_events(connection, tenants)
    random.shuffle(tenants)  # so that commands on several hosts meet at few tenants
    report = Report(dry_run=False, tenants_total=len(tenants))
    rebuilder = Rebuilder(writer, reader, partitions, PROJECTIONS, timeout_s)
    here = run_parallel(rebuilder, Rebuilder.rebuild_outdated, tenants, processes or processes_for(total))
    try:
        with here as done, Watch(report, total) as watch:
            for each in done:
                report.add(each)
                watch.show()
    finally:
        report.due = _still_outdated(reader, otherwise=len(tenants) - report.tenants)
        report.show(as_json)
    return report.due == 0


def _still_outdated(reader: Engine, otherwise: int) -> int:
    """Return for how many tenants work is left; where the database is away, what one would think."""
    try:
        with reader.connect() as connection:
            return len(projection_version.outdated_tenants(connection, PROJECTIONS))
    except SQLAlchemyError:
        return otherwise

"""`projector migrate`: create or upgrade the schema, and rebuild the rows that another release made."""

import os
import sys

import click

from cli import environment
from cli.connections import open_reader, open_writer, refuse_other_database
from cli.options import processes_option, timeout_option
from cli.rendering.rebuild_progress import show_run
from cli.rendering.rebuild_report import RebuildReport
from event_stream.plurals import counted
from event_stream.settings import StreamSettings
from migrations import migrate_database
from migrations.lock_wait import LOCK_WAIT_S
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings
from workers.maintenance import rebuild_run
from workers.maintenance.parallel import processes_for
from workers.maintenance.rebuild_tenants import Rebuilder


@click.command()
@click.option("--rebuild", "with_rebuild", is_flag=True, help="Also rebuild the rows that another release made.")
@click.option(
    "--lock-wait",
    default=LOCK_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="Give up when other sessions have kept a lock for this long.",
)
@timeout_option
@processes_option
@click.option("--json", "as_json", is_flag=True, help="Print the result of the rebuild as JSON.")
def migrate(with_rebuild: bool, lock_wait: float, timeout: float, processes: int | None, as_json: bool) -> None:
    """Create or upgrade the schema. Refuses a database of another application, or of another deployment than Redis.

    With --rebuild, also recompute the read models that are new or have a new version, tenant by tenant, from the event
    log. Producers, workers and readers keep running. If the command is interrupted, run it again to continue.
    """
    if (as_json or processes) and not with_rebuild:
        raise click.UsageError("--json and --processes apply to a rebuild; add --rebuild.")
    environment.load()
    partitions = StreamSettings.from_environ(os.environ).partitions
    url = DatabaseSettings.from_environ(os.environ).database_url
    refuse_other_database(os.environ)
    revision = migrate_database(url, partitions, lock_wait)
    click.echo(f"schema is at revision {revision}, {counted(partitions, 'partition')}", err=as_json)
    if with_rebuild and not _rebuild_outdated(partitions, timeout, processes, as_json):
        sys.exit(1)


def _rebuild_outdated(partitions: int, timeout_s: float, processes: int | None, as_json: bool) -> bool:
    """Rebuild the rows that are not of this release. Returns whether no tenant is left."""
    run = rebuild_run.rebuild_outdated(Rebuilder(open_writer(), open_reader(), partitions, PROJECTIONS, timeout_s))
    events_total = run.count_events()
    report = RebuildReport(dry_run=False, tenants_total=len(run.tenants))
    show_run(run, report, events_total, processes or processes_for(events_total), as_json)
    return report.pending == 0

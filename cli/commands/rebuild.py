"""`projector rebuild`: recompute read models from the event log, without stopping anything."""

import os
import sys

import click

from cli import environment
from cli.connections import open_reader, open_writer
from cli.options import processes_option, projection_option, select_tenants, tenant_option, timeout_option
from cli.rendering.rebuild_progress import show_run
from cli.rendering.rebuild_report import RebuildReport
from event_stream.events.rfc3339 import format_time
from event_stream.settings import StreamSettings
from projections.lifecycle import tenant_data
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, projection_version
from workers.maintenance import rebuild_run
from workers.maintenance.parallel import processes_for
from workers.maintenance.rebuild_tenants import Rebuilder


@click.command()
@projection_option
@tenant_option
@click.option("--dry-run", is_flag=True, help="Show which rows would change, and change nothing.")
@click.option("--restart", is_flag=True, help="Start over instead of continuing an unfinished rebuild.")
@click.option("--downgrade", is_flag=True, help="Rebuild with this release the rows that a newer release made.")
@processes_option
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rebuild(
    projection: str | None,
    tenant: str | None,
    dry_run: bool,
    restart: bool,
    downgrade: bool,
    processes: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Recompute read models from the event log.

    Producers, workers and readers keep running. The rows of a tenant change in one transaction, and only rows
    that differ are written. If the command is interrupted, run it again to continue. To use several hosts, run it on
    each: they share the tenants.
    """
    if downgrade and (projection or tenant or dry_run):
        raise click.UsageError("--downgrade applies to all read models; remove --projection, --tenant and --dry-run.")
    environment.load()
    projections = [each for each in PROJECTIONS if projection in (None, each.name)]
    writer, reader = open_writer(), open_reader()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with reader.connect() as connection:
        events_total = sum(each.applied for each in checkpoint_table.read_all(connection, partitions))
        tenants = select_tenants(tenant_data.tenants_with_data(connection, projections), tenant)
    if downgrade:
        projection_version.mark_newer_pending(writer, PROJECTIONS, partitions)
    rebuilder = Rebuilder(writer, reader, partitions, projections, timeout)
    if dry_run:
        run = rebuild_run.compare(rebuilder, tenants)
    else:
        run = rebuild_run.start_or_continue(rebuilder, RebuildRequest(projection, tenant), tenants, restart=restart)
    if run.continued_us is not None:
        click.echo(
            f"continuing the rebuild that was requested at {format_time(run.continued_us)}: tenants left:"
            f" {len(run.tenants):,} (--restart starts over)",
            err=True,
        )
    if tenant or set(run.tenants) != set(tenants):
        events_total = run.count_events()
    report = RebuildReport(dry_run, len(run.tenants))
    show_run(run, report, events_total, processes or processes_for(events_total), as_json)
    if report.failed or report.pending:
        sys.exit(1)

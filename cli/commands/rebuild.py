"""`projector rebuild`: read models recomputed from the event log, while everything else goes on."""

import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.connections import open_reader, open_writer
from cli.rendering.rebuild_report import Report, Watch
from event_stream.envelope import time_text
from event_stream.settings import StreamSettings
from projections.folding.projection import Projection
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint, event_log, projection_version
from workers.maintenance.parallel import Work, processes_for, run_parallel
from workers.maintenance.rebuild_tenants import Rebuilder

TENANTS_NAMED_MAX = 20

only_projection = click.option(
    "--projection", type=click.Choice([projection.name for projection in PROJECTIONS]), help="Only this read model."
)
only_tenant = click.option("--tenant", help="Only this tenant.")
give_up = click.option(
    "--timeout", default=600.0, show_default=True, help="Give up after an outage of so many seconds."
)
side_by_side_in = click.option(
    "--processes",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Fold in N processes at once; by default as many as there are cores, 8 at most, fewer for a short log.",
)


@click.command()
@only_projection
@only_tenant
@click.option("--dry-run", is_flag=True, help="Show which rows would change, and change nothing.")
@click.option("--restart", is_flag=True, help="Begin anew where the same rebuild was begun before and not ended.")
@click.option("--downgrade", is_flag=True, help="Take back to this release what a newer one has made of read models.")
@side_by_side_in
@give_up
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
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

    Producers, workers and readers go on meanwhile: readers see the rows from before or from after, tenant by tenant.
    Only rows that differ are written. If it ends early, the same command goes on where it stopped. The same command on
    several hosts shares the tenants between them.
    """
    if downgrade and (projection or tenant or dry_run):
        raise click.UsageError("--downgrade is of all read models; leave --projection, --tenant and --dry-run out.")
    environment.load()
    asked = RebuildRequest(projection, tenant)
    chosen = [each for each in PROJECTIONS if projection in (None, each.name)]
    writer, reader = open_writer(), open_reader()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with reader.connect() as connection:
        applied = sum(at.applied for at in checkpoint.read_all(connection, partitions))
        tenants = all_tenants = chosen_tenants(connection, chosen, tenant)
    if downgrade:
        projection_version.mark_newer_pending(writer, PROJECTIONS, partitions)
    if not dry_run:
        tenants = _due(writer, asked, chosen, all_tenants, restart=restart)
    with reader.connect() as connection:
        total = applied if tenants == all_tenants and not tenant else count_events(connection, tenants)
    if not dry_run:
        random.shuffle(tenants)  # so that commands on several hosts meet at few tenants
    report = Report(dry_run, len(tenants))
    work: Work = Rebuilder.compare if dry_run else partial(Rebuilder.rebuild_due, asked=asked)
    here = run_parallel(
        Rebuilder(writer, reader, partitions, chosen, timeout), work, tenants, processes or processes_for(total)
    )
    try:
        with here as done, Watch(report, total) as watch:
            for each in done:
                report.add(each)
                watch.show()
    finally:
        report.due = 0 if dry_run else _still_due(reader, asked, otherwise=len(tenants) - report.tenants)
        report.show(as_json)
    if report.failed or report.due:
        sys.exit(1)


def chosen_tenants(connection: Connection, projections: Sequence[Projection], tenant: str | None) -> list[str]:
    """Return the tenants to rebuild; raises UsageError, naming those that there are, if the one asked for is none."""
    tenants = pending_rebuilds.tenants_in(connection, projections)
    if tenant is None:
        return tenants
    if tenant not in tenants:
        named = ", ".join(tenants[:TENANTS_NAMED_MAX]) or "none"
        more = len(tenants) - TENANTS_NAMED_MAX
        raise click.BadParameter(
            f"{tenant!r} has no events; tenants: {named}{f' and {more:,} more' if more > 0 else ''}",
            param_hint="--tenant",
        )
    return [tenant]


def _due(
    writer: Engine, asked: RebuildRequest, projections: Sequence[Projection], tenants: Sequence[str], *, restart: bool
) -> list[str]:
    """Return the tenants for which something of the rebuild is due: what the last one left, or else all of them."""
    with writer.begin() as connection:
        requested_us = pending_rebuilds.requested_us(connection, asked)
        if requested_us is None or restart:
            pending_rebuilds.plan(connection, asked, projections, tenants, time.time_ns() // 1000)
        still_due = list(pending_rebuilds.read(connection, asked))
    if requested_us is not None and not restart:
        click.echo(
            f"going on with what was begun at {time_text(requested_us)}: tenants still due: {len(still_due):,}"
            " (--restart begins anew)",
            err=True,
        )
    return still_due


def count_events(connection: Connection, tenants: Iterable[str]) -> int:
    """Return how many events of the log tenants have."""
    return sum(event_log.count_of(connection, tenant_id) for tenant_id in tenants)


def _still_due(reader: Engine, asked: RebuildRequest, otherwise: int) -> int:
    """Return for how many tenants something is due; where the database is away, what one would think."""
    try:
        with reader.connect() as connection:
            return len(pending_rebuilds.read(connection, asked))
    except SQLAlchemyError:
        return otherwise

"""`projector verify`: compare the read models with the event log, and the event log with the checkpoints."""

import os
import random
import sys
from contextlib import suppress

import click
from redis.exceptions import RedisError

from cli import environment
from cli.connections import open_reader, open_writer
from cli.options import projection_option, select_tenants, tenant_option, timeout_option
from cli.output import print_json
from cli.rendering.rebuild_progress import RebuildProgress
from cli.rendering.rebuild_report import RebuildReport
from cli.rendering.verify_report import print_verification, verification_as_json
from event_stream.settings import SettingsError, StreamSettings
from projections.lifecycle import tenant_data
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, projection_version
from workers.maintenance.rebuild_tenants import Rebuilder
from workers.maintenance.verify_tenants import TenantVerification
from workers.runtime import redis_client
from workers.settings import RedisSettings


@click.command()
@projection_option
@tenant_option
@click.option("--quick", is_flag=True, help="Compare checksums only. Takes seconds where folding takes minutes.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Fold the events of only N tenants, at random.")
@click.option("--repair", is_flag=True, help="Rebuild the tenants that differ, where the event log is complete.")
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    projection: str | None,
    tenant: str | None,
    quick: bool,
    sample: int | None,
    repair: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Compare the read models with the event log. Exit with status 1 if anything differs.

    It compares the checksum in each row with the checksum of its events in the log. It also folds all events again and
    compares every row with the result. Producers, workers and readers keep running.
    """
    if quick and sample:
        raise click.UsageError("--quick folds no events and --sample folds some; choose one.")
    if repair and (quick or sample or projection):
        raise click.UsageError("--repair needs a full comparison; remove --quick, --sample and --projection.")
    environment.load()
    projections = [each for each in PROJECTIONS if projection in (None, each.name)]
    writer, reader = open_writer(), open_reader()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with reader.connect() as connection:
        checkpoint_table.read_all(connection, partitions)
        tenants = select_tenants(tenant_data.tenants_with_data(connection, projections), tenant)
        folded = _choose_folded(tenants, quick, sample)
        events_total = sum(tenant_data.count_events(connection, each) for each in folded)
        outdated = {*projection_version.outdated_tenants(connection, projections)} & {*tenants}
    verification = TenantVerification.of(Rebuilder(writer, reader, partitions, projections, timeout), outdated)
    report = RebuildReport(dry_run=True, tenants_total=len(folded))
    with RebuildProgress(report, events_total) as progress:
        for result in verification.compare(tenants, folded):
            report.add(result)
            progress.update()
        for _ in verification.repair() if repair else ():
            progress.update()
    report.failed.update(verification.failed)
    with suppress(RedisError, SettingsError):  # the result is shown here even if `status` cannot show it
        verification.publish(redis_client(RedisSettings.from_environ(os.environ).redis_url))
    if as_json:
        print_json(verification_as_json(verification, report))
    else:
        print_verification(verification, report)
    if verification.has_problems:
        sys.exit(1)


def _choose_folded(tenants: list[str], quick: bool, sample: int | None) -> list[str]:
    """Return the tenants whose events are folded."""
    if quick:
        return []
    return sorted(random.sample(tenants, min(sample, len(tenants)))) if sample else tenants

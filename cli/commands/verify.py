"""`projector verify`: the read models beside the event log, and the event log beside what was applied."""

import os
import random
import sys
from contextlib import suppress
from itertools import chain
from typing import Any

import click
from redis.exceptions import RedisError

from cli import environment
from cli.commands.rebuild import chosen_tenants, count_events, give_up, only_projection, only_tenant
from cli.connections import open_reader, open_writer
from cli.output import print_json
from cli.rendering.rebuild_report import Report, Watch
from event_stream.settings import SettingsError, StreamSettings
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint, projection_version
from workers.maintenance.rebuild_tenants import Rebuilder
from workers.maintenance.verify_tenants import Verification
from workers.runtime import redis_client
from workers.settings import RedisSettings

MISCOUNTS_SHOWN_MAX = 20
SHARED = ("events", "seconds", "readModels", "samples", "failed")


@click.command()
@only_projection
@only_tenant
@click.option("--quick", is_flag=True, help="Compare sums only: seconds where folding takes minutes.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Fold the events of N tenants only, drawn by lot.")
@click.option("--repair", is_flag=True, help="Rebuild the tenants that differ, where the log is whole.")
@give_up
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def verify(
    projection: str | None,
    tenant: str | None,
    quick: bool,
    sample: int | None,
    repair: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Compare the read models with the event log, and exit 1 on any difference.

    By two means, while everything goes on: each row says how many events are in it and a fingerprint of which, and the
    database adds up the same over the log; and all events are folded anew, and every row compared with what that gives.
    """
    if quick and sample:
        raise click.UsageError("--quick folds nothing, --sample some; choose one.")
    if repair and (quick or sample or projection):
        raise click.UsageError("--repair must first see all; leave --quick, --sample and --projection out.")
    environment.load()
    chosen = [each for each in PROJECTIONS if projection in (None, each.name)]
    writer, reader = open_writer(), open_reader()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with reader.connect() as connection:
        checkpoint.read_all(connection, partitions)
        tenants = chosen_tenants(connection, chosen, tenant)
        folded = [] if quick else sorted(random.sample(tenants, min(sample, len(tenants)))) if sample else tenants
        events = count_events(connection, folded)
        due_anyway = {*projection_version.outdated_tenants(connection, chosen)} & {*tenants}
    verification = Verification.on(Rebuilder(writer, reader, partitions, chosen, timeout), due_anyway)
    report = Report(dry_run=True, tenants_total=len(folded))
    with Watch(report, events) as watch:
        for each in verification.compare(tenants, folded):
            report.add(each)
            watch.show()
        for _ in verification.repair() if repair else ():
            watch.show()
    report.failed.update(verification.failed)
    with suppress(RedisError, SettingsError):  # verification itself does not need Redis
        verification.publish(redis_client(RedisSettings.from_environ(os.environ).redis_url))
    if as_json:
        print_json(_plain(verification, report))
    else:
        _show(verification, report)
    if verification.is_wrong:
        sys.exit(1)


def _show(verification: Verification, report: Report) -> None:
    if report.tenants_total:
        report.show(as_json=False)
    click.echo(f"added up the events of {len(verification.rows):,} tenants and of {len(verification.logs)} partitions")
    for found in list(chain.from_iterable(verification.miscounts.values()))[:MISCOUNTS_SHOWN_MAX]:
        click.echo(
            f"other events: {found.read_model} {' '.join(map(str, found.key))}: {_number(found.row_events)} in the row,"
            f" {_number(found.log_events)} in the log"
        )
    for partition, fault in verification.logs.items():
        if fault:
            click.echo(f"the log of partition {partition} is not whole: {fault}; restore it from a backup")
    _show_left_out(verification)
    if verification.mended:
        click.echo(f"tenants mended: {len(verification.mended):,}")
    if wrong := verification.wrong - verification.mended:
        click.echo(f"tenants that differ: {len(wrong):,}")
    elif not verification.is_wrong:
        click.echo("no difference")


def _show_left_out(verification: Verification) -> None:
    for tenant_id in sorted(verification.beyond_repair):
        click.echo(f"tenant {tenant_id} is left as it is, as the log of its partition is not whole")
    if verification.due:
        click.echo(
            f"tenants with rows that are due to be rebuilt, and were not compared: {len(verification.due):,};"
            " run `projector migrate --rebuild`"
        )


def _plain(verification: Verification, report: Report) -> dict[str, Any]:
    return {
        **{name: value for name, value in report.plain().items() if name in SHARED},
        "tenants": len(verification.rows),
        "tenantsFolded": report.tenants,
        "checksumMismatches": [
            each.model_dump(mode="json", by_alias=True) for found in verification.miscounts.values() for each in found
        ],
        "logErrors": {str(partition): fault for partition, fault in verification.logs.items() if fault},
        "mismatchedTenants": sorted(verification.wrong),
        "repairedTenants": sorted(verification.mended),
        "unrepairableTenants": sorted(verification.beyond_repair),
        "rebuildPendingTenants": sorted(verification.due),
    }


def _number(events: int | None) -> str:
    return "none" if events is None else f"{events:,} events"

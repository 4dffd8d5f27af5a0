"""The report of `projector verify`: rows, checksums and partitions of the event log that differ."""

from itertools import chain
from typing import Any

import click

from cli.rendering.rebuild_report import RebuildReport, print_report
from event_stream.plurals import counted
from projections.folding.row_checksum import RowChecksum
from workers.maintenance.verify_tenants import TenantVerification

MISMATCHES_SHOWN_MAX = 20
SHARED_MEMBERS = ("events", "seconds", "readModels", "samples", "failed")


def print_verification(verification: TenantVerification, report: RebuildReport) -> None:
    """Print a verification as text."""
    if report.tenants_total:
        print_report(report)
    tenants, partitions = len(verification.differing_rows), len(verification.log_errors)
    click.echo(f"compared the checksums of {counted(tenants, 'tenant')} and {counted(partitions, 'partition')}")
    mismatches = list(chain.from_iterable(verification.checksum_mismatches.values()))
    for mismatch in mismatches[:MISMATCHES_SHOWN_MAX]:
        row = f"{mismatch.table.name} {' '.join(map(str, mismatch.key))}"
        stored, logged = _count(mismatch.stored), _count(mismatch.logged)
        click.echo(f"checksum differs: {row}: {stored} in the row, {logged} in the log")
    for partition, error in verification.log_errors.items():
        if error:
            click.echo(f"the event log of partition {partition} is incomplete: {error}; restore it from a backup")
    for tenant_id in sorted(verification.unrepairable):
        click.echo(f"tenant {tenant_id} was not repaired, because the event log of its partition is incomplete")
    if verification.rebuild_pending:
        click.echo(
            f"tenants with a pending rebuild, whose rows were not compared: {len(verification.rebuild_pending):,};"
            " run `projector migrate --rebuild`"
        )
    if verification.repaired:
        click.echo(f"tenants repaired: {len(verification.repaired):,}")
    if differing := verification.mismatched - verification.repaired:
        click.echo(f"tenants that differ: {len(differing):,}")
    elif not verification.has_problems:
        click.echo("no difference")


def verification_as_json(verification: TenantVerification, report: RebuildReport) -> dict[str, Any]:
    """Return a verification as a JSON object."""
    return {
        **{name: value for name, value in report.as_json().items() if name in SHARED_MEMBERS},
        "tenants": len(verification.differing_rows),
        "tenantsFolded": report.tenants,
        "checksumMismatches": [
            {
                "readModel": mismatch.table.name,
                "key": mismatch.key,
                "rowEvents": mismatch.stored and mismatch.stored.event_count,
                "logEvents": mismatch.logged and mismatch.logged.event_count,
            }
            for mismatch in chain.from_iterable(verification.checksum_mismatches.values())
        ],
        "logErrors": {str(partition): error for partition, error in verification.log_errors.items() if error},
        "mismatchedTenants": sorted(verification.mismatched),
        "repairedTenants": sorted(verification.repaired),
        "unrepairableTenants": sorted(verification.unrepairable),
        "rebuildPendingTenants": sorted(verification.rebuild_pending),
    }


def _count(checksum: RowChecksum | None) -> str:
    return "none" if checksum is None else counted(checksum.event_count, "event")

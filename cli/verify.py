"""`projector verify`: the read models beside the event log, and the event log beside what was applied."""

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import click
from redis import Redis
from redis.exceptions import RedisError

from cli import environment
from cli.database import open_reader, open_writer
from cli.output import print_json
from cli.rebuild import chosen_tenants, count_events, give_up, only_projection, only_tenant
from cli.rendering.rebuild_report import Report, Watch
from event_stream.settings import SettingsError, StreamSettings
from event_stream.types import partition_of
from projections import checkpoint, due, versions
from projections.due import Asked
from projections.registry import PROJECTIONS
from projections.store import auditor_engine
from workers import verified
from workers.rebuild import Outcome, Rebuilder
from workers.runtime import redis_client
from workers.settings import RedisSettings
from workers.verified import Means
from workers.verify import Miscount, Verifier

STATEMENT_S = 600.0
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
        due_anyway = {*versions.outdated_tenants(connection, chosen)} & {*tenants}
    verification = Verification(
        Verifier(auditor_engine(writer.url, STATEMENT_S), chosen, timeout),
        Rebuilder(writer, reader, partitions, chosen, timeout),
        Report(dry_run=True, tenants_total=len(folded)),
        due_anyway,
    )
    with Watch(verification.report, events) as watch:
        for _ in chain(verification.look(tenants, folded), verification.repair() if repair else ()):
            watch.show()
    with suppress(RedisError, SettingsError):  # it only tells others
        verification.tell(redis_client(RedisSettings.from_environ(os.environ).redis_url))
    verification.show(as_json)
    if verification.is_wrong:
        sys.exit(1)


@dataclass
class Verification:
    """What was verified so far and what was wrong; of the tenants that were, `mended` are right by now.

    Of those that are `due` some rows are another release's, or behind; these rows are not looked at.
    Those `beyond_repair` are on a partition whose log is not whole: a rebuild would take from the rows what it lost.
    """

    verifier: Verifier
    rebuilder: Rebuilder
    report: Report
    due: set[str] = field(default_factory=set)
    rows: dict[str, dict[Means, int]] = field(default_factory=dict)
    miscounts: dict[str, list[Miscount]] = field(default_factory=dict)
    logs: dict[int, str | None] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    beyond_repair: set[str] = field(default_factory=set)

    @property
    def is_whole(self) -> bool:
        """Whether all read models are looked at."""
        return len(self.verifier.projections) == len(PROJECTIONS)

    @property
    def is_wrong(self) -> bool:
        """Whether anything is wrong, or could not be verified."""
        return bool(self.wrong - self.mended or any(self.logs.values()) or self.report.failed or self.due)

    def look(self, tenants: Sequence[str], folded: Sequence[str]) -> Iterator[None]:
        """Add up the events of tenants and of the logs, and fold those of some; yields now and then."""
        for partition in range(self.rebuilder.partitions):
            self.logs[partition] = self.verifier.log_fault(partition)
            yield
        to_fold = set(folded)
        for tenant_id in tenants:
            found = self.verifier.miscounts(tenant_id)
            if found:
                self.miscounts[tenant_id] = found
            rows: dict[Means, int] = {"sums": len(found)}
            for each in self.rebuilder.verify([tenant_id]) if tenant_id in to_fold else ():
                self.report.add(each)
                if isinstance(each, Outcome) and each.error is None:
                    rows["rows"] = sum(sum(counts.values()) for counts in each.differed.values())
                yield
            self.rows[tenant_id] = rows
            if any(rows.values()):
                self.wrong.add(tenant_id)
            yield

    def repair(self) -> Iterator[None]:
        """Rebuild the tenants that are wrong, but those whose log is not whole; yields now and then."""
        partitions = self.rebuilder.partitions
        damaged = {partition for partition, fault in self.logs.items() if fault}
        damaged |= {partition_of(tenant_id, partitions) for tenant_id in self.report.failed}
        for tenant_id in sorted(self.wrong):
            if partition_of(tenant_id, partitions) in damaged:
                self.beyond_repair.add(tenant_id)
                continue
            asked = Asked(tenant_id=tenant_id)
            with self.rebuilder.writer.begin() as connection:
                due.plan(connection, asked, self.rebuilder.projections, [tenant_id], time.time_ns() // 1000)
            for each in self.rebuilder.rebuild_due([tenant_id], asked):
                if isinstance(each, Outcome) and each.error is not None:
                    self.report.failed[tenant_id] = each.error
                yield
            if tenant_id not in self.report.failed and not self.verifier.miscounts(tenant_id):
                self.mended.add(tenant_id)

    def tell(self, redis: Redis) -> None:
        """Tell `status`, health and metrics what is wrong now; raises what Redis raises."""
        known = verified.read_wrong(redis)
        for tenant_id in (self.wrong | known) & self.rows.keys():
            rows = self.rows[tenant_id]
            if tenant_id in self.mended:
                rows = dict.fromkeys(rows, 0)
            # Who looked at one read model only knows what is wrong, not what is right.
            verified.note_tenant(redis, tenant_id, rows if self.is_whole else {k: n for k, n in rows.items() if n})
        for partition, fault in self.logs.items():
            verified.note_log(redis, partition, fault)

    def show(self, as_json: bool) -> None:
        """Print the outcome."""
        if as_json:
            print_json(self._plain())
            return
        if self.report.tenants_total:
            self.report.show(as_json=False)
        click.echo(f"added up the events of {len(self.rows):,} tenants and of {len(self.logs)} partitions")
        for found in list(chain.from_iterable(self.miscounts.values()))[:MISCOUNTS_SHOWN_MAX]:
            click.echo(
                f"other events: {found.read_model} {' '.join(map(str, found.key))}:"
                f" {_number(found.row_events)} in the row, {_number(found.log_events)} in the log"
            )
        for partition, fault in self.logs.items():
            if fault:
                click.echo(f"the log of partition {partition} is not whole: {fault}; restore it from a backup")
        self._show_left_out()
        if self.mended:
            click.echo(f"tenants mended: {len(self.mended):,}")
        if wrong := self.wrong - self.mended:
            click.echo(f"tenants that differ: {len(wrong):,}")
        elif not self.is_wrong:
            click.echo("no difference")

    def _show_left_out(self) -> None:
        for tenant_id in sorted(self.beyond_repair):
            click.echo(f"tenant {tenant_id} is left as it is, as the log of its partition is not whole")
        if self.due:
            click.echo(
                f"tenants with rows that are due to be rebuilt, and were not compared: {len(self.due):,};"
                " run `projector migrate --rebuild`"
            )

    def _plain(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in self.report.plain().items() if name in SHARED},
            "tenants": len(self.rows),
            "tenantsFolded": self.report.tenants,
            "checksumMismatches": [
                each.model_dump(mode="json", by_alias=True) for found in self.miscounts.values() for each in found
            ],
            "logErrors": {str(partition): fault for partition, fault in self.logs.items() if fault},
            "mismatchedTenants": sorted(self.wrong),
            "repairedTenants": sorted(self.mended),
            "unrepairableTenants": sorted(self.beyond_repair),
            "rebuildPendingTenants": sorted(self.due),
        }


def _number(events: int | None) -> str:
    return "none" if events is None else f"{events:,} events"

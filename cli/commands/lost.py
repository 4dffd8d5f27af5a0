"""`projector lost`: list and acknowledge the entries that Redis lost."""

import getpass
import os
import socket
import time

import click

from cli import environment
from cli.connections import open_report_reader, open_writer
from cli.output import print_json, stdout, table
from event_stream.events.rfc3339 import format_time
from event_stream.settings import StreamSettings
from projections.lifecycle import lost_entries
from projections.lifecycle.lost_entries import Acknowledgement
from projections.transaction import checkpoint_table


@click.group()
def lost() -> None:
    """List and acknowledge entries that Redis lost before they were read."""


@lost.command()
@click.option("--partition", required=True, type=click.IntRange(0), help="The partition that lost them.")
@click.option("--count", required=True, type=click.IntRange(1), help="How many, as `projector status` shows.")
@click.option("--reason", required=True, help="Why they were lost, or what was done about it.")
def acknowledge(partition: int, count: int, reason: str) -> None:
    """Acknowledge the lost entries of a partition. Health then reports only what is lost afterwards.

    The count must be the number of lost entries that are not acknowledged yet. The entries stay counted as lost.
    """
    environment.load()
    partitions = StreamSettings.from_environ(os.environ).partitions
    if partition >= partitions:
        raise click.UsageError(f"--partition is {partition}, but the partitions are 0 to {partitions - 1}.")
    by, now_us = f"{getpass.getuser()}@{socket.gethostname()}", time.time_ns() // 1000
    with open_writer().begin() as connection:
        lost_entries.acknowledge(connection, partition, count, by=by, reason=reason, now_us=now_us)
    click.echo(f"acknowledged {count:,} lost entries of partition {partition}")


@lost.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List the lost entries of each partition, and all acknowledgements."""
    environment.load()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with open_report_reader().connect() as connection:
        counts = {each.partition: each.lost for each in checkpoint_table.read_all(connection, partitions) if each.lost}
        acknowledged = lost_entries.count_acknowledged(connection)
        history = lost_entries.list_acknowledgements(connection)
    rows = [(partition, number, number - acknowledged.get(partition, 0)) for partition, number in counts.items()]
    if as_json:
        names = ("partition", "lost", "notAcknowledged")
        partitions_json = [dict(zip(names, row, strict=True)) for row in rows]
        print_json({"partitions": partitions_json, "acknowledgements": [_as_json(each) for each in history]})
        return
    stdout().print(table("Lost entries", ("partition", "lost", "not acknowledged"), rows or [("none", 0, 0)]))
    headers = ("when", "by", "reason", "partition", "entries")
    cells = [
        (format_time(each.acknowledged_us), each.acknowledged_by, each.reason, each.partition, each.entries)
        for each in history
    ]
    stdout().print(table("Acknowledgements", headers, cells, left=3))


def _as_json(made: Acknowledgement) -> dict[str, object]:
    return {
        "partition": made.partition,
        "entries": made.entries,
        "acknowledged": format_time(made.acknowledged_us),
        "by": made.acknowledged_by,
        "reason": made.reason,
    }

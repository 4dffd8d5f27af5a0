"""Lost entries: operators acknowledge what Redis lost, so that health is judged by what is lost afterwards.

The counts in the checkpoints never change. Each acknowledgement stays, with who made it, when and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Integer, Table, Text, func, insert, select

from projections.database.columns import metadata
from projections.errors import ProjectionsError
from projections.transaction import checkpoint_table

table = Table(
    "lost_acknowledgement",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("lost", BigInteger, primary_key=True, autoincrement=False),  # of the partition, with these entries
    Column("entries", BigInteger, nullable=False),
    Column("acknowledged_us", BigInteger, nullable=False),
    Column("acknowledged_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)


class LostCountError(ProjectionsError):
    """The number to acknowledge is not what is lost and not yet acknowledged. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Lost entries of a partition that an operator has acknowledged. `lost` is the partition's count at that time."""

    partition: int
    lost: int
    entries: int
    acknowledged_us: int
    acknowledged_by: str
    reason: str


def acknowledge(connection: Connection, partition: int, entries: int, *, by: str, reason: str, now_us: int) -> None:
    """Acknowledge the lost entries of a partition; raises LostCountError unless `entries` is their number.

    The claim orders acknowledgements and drains, so that no loss is acknowledged unseen or twice.
    """
    lost = checkpoint_table.claim_current(connection, partition).lost
    open_entries = lost - count_acknowledged(connection).get(partition, 0)
    if entries != open_entries or not entries:
        raise LostCountError(
            f"partition {partition} has {open_entries:,} lost entries that are not acknowledged, not {entries:,}; see"
            " `projector lost list`"
        )
    values = Acknowledgement(partition, lost, entries, now_us, by, reason)
    connection.execute(insert(table), {name: getattr(values, name) for name in table.c.keys()})  # noqa: SIM118 (iterating yields columns)


def count_acknowledged(connection: Connection) -> dict[int, int]:
    """Return the number of acknowledged lost entries of each partition that has any."""
    rows = connection.execute(select(table.c.partition, func.sum(table.c.entries)).group_by(table.c.partition))
    return {partition: int(entries) for partition, entries in rows}


def list_acknowledgements(connection: Connection) -> Sequence[Acknowledgement]:
    """Return all acknowledgements, by partition and in the order in which they were made."""
    rows = connection.execute(select(table).order_by(table.c.partition, table.c.lost)).mappings()
    return [Acknowledgement(**row) for row in rows]

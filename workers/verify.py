"""Verifies tenants: their sums beside those of the log; and, by a rebuild that changes nothing, every row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from sqlalchemy import Engine

from event_stream.types import partition_of
from projections.projection import Projection
from projections.sums import Sums
from projections.verify import LogFault, Mismatch, log_fault, mismatches, patient


class Miscount(BaseModel, alias_generator=to_camel, populate_by_name=True):
    """A row, or a group of a feed, whose events are not those of the log: their numbers, None where there is nothing.

    Where both are equal, they are other events.
    """

    read_model: str
    key: tuple[str, ...]
    stored: int | None
    logged: int | None

    @property
    def log_lacks(self) -> bool:
        """Whether events went into it that the log does not hold."""
        return (self.stored or 0) > (self.logged or 0)


@dataclass
class Verifier:
    """Compares sums; nothing is locked, and nothing is changed. A statement may take `statement_s`."""

    reader: Engine
    partitions: int
    projections: Sequence[Projection]
    statement_s: float

    def miscounts(self, tenant_id: str) -> list[Miscount]:
        """Return what the sums of a tenant tell; raises what the database raises."""
        with patient(self.reader, self.statement_s) as connection:
            found = [each for projection in self.projections for each in mismatches(connection, projection, tenant_id)]
        return [_miscount(each) for each in found]

    def log_faults(self) -> Iterator[tuple[int, str | None]]:
        """Yield what is wrong with each partition's log, None where nothing is; raises what the database raises."""
        for partition in range(self.partitions):
            with patient(self.reader, self.statement_s) as connection:
                fault = log_fault(connection, partition)
            yield partition, _told(fault) if fault else None

    def partition_of(self, tenant_id: str) -> int:
        """Return the partition whose log holds a tenant's events."""
        return partition_of(tenant_id, self.partitions)


def _miscount(found: Mismatch) -> Miscount:
    return Miscount(
        read_model=found.table.name, key=found.key, stored=_events(found.stored), logged=_events(found.logged)
    )


def _events(sums: Sums | None) -> int | None:
    return sums.events if sums else None


def _told(fault: LogFault) -> str:
    gaps = ", ".join(str(first) if first == last else f"{first:,} to {last:,}" for first, last in fault.gaps)
    held = f"{fault.applied:,} events were applied, {fault.held:,} are in the log"
    return f"{held}; missing: {gaps}" if gaps else held

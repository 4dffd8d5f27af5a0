"""Moves events through a deployment in this process: append them, drain them, read what is stored."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select

from event_stream.events.event import partition_of
from event_stream.streams.appending import Appended
from projections.folding.projection import Projection
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, dead_letter_counts, dead_letters, event_log
from projections.transaction.checkpoint import Checkpoint
from tests.support.events import body
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

READ_MODELS = tuple(projection.table for projection in PROJECTIONS)


@contextmanager
def closing_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Yield the runtime and close all its connections at the end of the block."""
    try:
        yield runtime
    finally:
        runtime.stream.redis.close()
        runtime.queue.connection.close()
        runtime.writer.dispose()
        runtime.reader.dispose()


def append(runtime: Runtime, *events: dict[str, Any]) -> list[Appended]:
    """Append events as a foreign producer does: XADD to the tenant's partition, without validation."""
    partitions = runtime.stream.partitions
    return runtime.stream.append([(partition_of(str(e["tenantid"]), partitions), body(e)) for e in events])


def append_raw(runtime: Runtime, partition: int, *bodies: bytes) -> None:
    """Append any bytes to a partition."""
    runtime.stream.append([(partition, raw) for raw in bodies])


def drain_all(runtime: Runtime, budget_s: float = 15) -> None:
    """Drain every partition until it is empty or its time budget is used up."""
    for partition in range(runtime.stream.partitions):
        run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition), budget_s)


def checkpoints(runtime: Runtime) -> list[Checkpoint]:
    with runtime.reader.connect() as connection:
        return checkpoint_table.read_all(connection, runtime.stream.partitions)


def totals(runtime: Runtime) -> dict[str, int]:
    """Return the sums of the counters of all partitions."""
    names = ("read", "applied", "duplicates", "dead_lettered", "lost")
    return {name: sum(getattr(at, name) for at in checkpoints(runtime)) for name in names}


def stored_dead_letters(runtime: Runtime) -> list[StoredDeadLetter]:
    """Return all dead letters, ordered by partition and position."""
    with runtime.reader.connect() as connection:
        found = list(dead_letter_admin.iter_latest(connection, Selection(include_closed=True), limit=100_000))
    return sorted(found, key=lambda dead_letter: (dead_letter.partition, dead_letter.position))


def assert_dead_letters_are_counted(runtime: Runtime) -> None:
    """Check that the counts of open dead letters equal the rows of the table."""
    groups = (dead_letters.table.c.bucket, dead_letters.table.c.reason)
    counts = dead_letter_counts.table
    with runtime.reader.connect() as connection:
        stored = connection.execute(select(*groups, func.count()).where(dead_letters.is_open).group_by(*groups))
        counted = connection.execute(select(counts.c.bucket, counts.c.reason, counts.c.kept).where(counts.c.kept != 0))
        assert sorted(map(tuple, counted)) == sorted(map(tuple, stored))


def dump(engine: Engine, tables: Iterable[Table] = READ_MODELS) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of the tables, in the order of their keys."""
    with engine.connect() as connection:
        return {table.name: _rows(connection, table) for table in tables}


def _rows(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in connection.execute(select(table)))


def log_size(engine: Engine) -> int:
    return len(dump(engine, [event_log.table])["event_log"])


def projections_with(changed: Projection) -> tuple[Projection, ...]:
    """Return all projections; `changed` replaces the one with its name."""
    assert changed.name in {each.name for each in PROJECTIONS}
    return tuple(changed if each.name == changed.name else each for each in PROJECTIONS)


def with_projections(runtime: Runtime, *projections: Any) -> Runtime:
    return replace(runtime, projections=projections)

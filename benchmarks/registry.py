"""The registry of rows, in the order in which they are measured. A new row is one file and one line here."""

from benchmarks.row import BenchmarkRow
from benchmarks.rows import append, drain, freshness, full_log, history, memory, reads, rebuild, skew, sqlite

ROWS: tuple[BenchmarkRow, ...] = (
    drain.one_worker,
    drain.two_workers,
    sqlite.row,
    full_log.row,
    skew.row,
    rebuild.row,
    reads.stats,
    reads.activity,
    history.row,
    freshness.row,
    append.row,
    memory.row,
)

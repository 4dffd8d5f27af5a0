"""The rows of the benchmark, in the order in which they are measured and shown. A new row is a file and a line."""

from benchmarks.row import Row
from benchmarks.rows import append, drain, freshness, full_log, history, memory, reads, rebuild, skew, sqlite

ROWS: tuple[Row, ...] = (
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

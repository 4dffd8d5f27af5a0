"""How fast a rebuild recomputes the read models from the log, compared with the drain that filled it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.drain_timing import measure_drain, timed_drain
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import BenchmarkError, run_module
from projections.read_models.registry import PROJECTIONS


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    backlog = sandbox.standard_mix
    with sandbox.database() as url:
        timed_drain(sandbox, backlog, url)

        def from_empty_tables() -> Figures:
            """Rebuild into empty tables: every row is written, as after new versions of all projections."""
            with psycopg.connect(url) as connection:
                connection.execute(f"TRUNCATE {', '.join(projection.table.name for projection in PROJECTIONS)}")
            return _rebuild(url, len(backlog))

        def from_equal_rows() -> Figures:
            """Rebuild rows that are correct: every row is compared and none is written."""
            return _rebuild(url, len(backlog))

        yield {
            "rebuild": from_empty_tables,
            "rebuild, rows equal": from_equal_rows,
            "live drain": measure_drain(sandbox, backlog),
        }


def _rebuild(url: str, events: int) -> Figures:
    """Run the command, which reports its own duration from the first page of the log to the last commit."""
    report: Any = run_module("cli", "rebuild", "--json", DATABASE_URL=url)
    pending = report["pendingTenants"]
    if report["events"] != events or pending:
        raise BenchmarkError(
            f"{report['events']:,} of {events:,} events were folded; {pending} tenants still need a rebuild"
        )
    return {"events/s": events / report["seconds"], "claim ms": report["lockHeldMs"]["max"]}


row = BenchmarkRow(
    "rebuild",
    "all read models recomputed from the log of the same backlog, a process a core; the drain that filled it",
    (Goal("events/s", "rebuild", "live drain", at_least=1.5),),
    _contestants,
)

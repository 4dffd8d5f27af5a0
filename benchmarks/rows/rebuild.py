"""Recomputing the read models from the log that a drain has filled, beside that drain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.draining import drain, timed_drain
from benchmarks.place import Place
from benchmarks.row import Contestants, Figures, Goal, Row
from benchmarks.running import MeasureError, figures_of
from projections.read_models.registry import PROJECTIONS


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    backlog = place.standard_mix
    with place.database() as url:
        timed_drain(place, backlog, url)

        def of_empty_tables() -> Figures:
            """Every row is written, as after a release that gives all read models a new version."""
            with psycopg.connect(url) as connection:
                connection.execute(f"TRUNCATE {', '.join(projection.table.name for projection in PROJECTIONS)}")
            return _rebuilt(url, len(backlog))

        def of_equal_rows() -> Figures:
            """Every row is compared, and none written."""
            return _rebuilt(url, len(backlog))

        yield {
            "rebuild": of_empty_tables,
            "rebuild, rows equal": of_equal_rows,
            "live drain": drain(place, backlog),
        }


def _rebuilt(url: str, events: int) -> Figures:
    """Run the command; it tells its time itself, from the first page of the log to the last commit."""
    told: Any = figures_of("cli", "rebuild", "--json", DATABASE_URL=url)
    pending = told["pendingTenants"]
    if told["events"] != events or pending:
        raise MeasureError(
            f"of {events:,} events {told['events']:,} were folded, {pending} tenants are still to be rebuilt"
        )
    return {"events/s": events / told["seconds"], "claim ms": told["lockHeldMs"]["max"]}


row = Row(
    "rebuild",
    "all read models recomputed from the log of the same backlog, a process a core; the drain that filled it",
    (Goal("events/s", "rebuild", "live drain", at_least=1.5),),
    _contestants,
)

"""How the length of the event log affects both reads, and SQL on the log itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import psycopg

from benchmarks.api_process import RunningApi, run_api
from benchmarks.load_generator import generate_load
from benchmarks.references.live_sql import LiveSql, time_queries
from benchmarks.row import BenchmarkRow, Contestants, Goal, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.synthetic_log import SyntheticLog, database_with_read_models

_PROJECTS_READ = 20  # one per tenant
_LONG_LOG_PROJECTS = 1_000
_HOT_SHARE = 0.05
_ROUNDS_FACTOR = 5


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    short_rows, long_rows = sandbox.size.history_rows
    # Both logs are read for the same number of projects, which have at least 100 evaluations each. So the responses
    # are equally long.
    short_log = SyntheticLog(short_rows, _PROJECTS_READ)
    long_log = SyntheticLog(long_rows, min(_LONG_LOG_PROJECTS, long_rows // 500), _HOT_SHARE)
    with ExitStack() as stack:
        short_url = stack.enter_context(database_with_read_models(sandbox, short_log))
        long_url = stack.enter_context(database_with_read_models(sandbox, long_log))
        short_api = stack.enter_context(run_api(sandbox, short_url))
        long_api = stack.enter_context(run_api(sandbox, long_url))
        connection = stack.enter_context(psycopg.connect(long_url, autocommit=True))
        sql = LiveSql(connection)
        hot, *average = [(long_log.tenant(each), long_log.project_id(each)) for each in range(_PROJECTS_READ)]
        for number, (tenant, project_id) in enumerate([hot, *average]):
            stats = long_api.get(long_api.stats(tenant, f"project-{number}"))
            sql.check_agreement(stats, long_api.get(long_api.activity(tenant, project_id)), tenant, project_id)
        queries = sandbox.size.queries // _ROUNDS_FACTOR
        times = queries // len(average) + 1
        yield {
            "stats, long log": _stats(sandbox, long_api, long_log),
            "stats, short log": _stats(sandbox, short_api, short_log),
            "activity, long log": _activity(sandbox, long_api, long_log),
            "activity, short log": _activity(sandbox, short_api, short_log),
            "live-sql stats, average project": time_queries(sql.stats, average * times),
            "live-sql stats, project of 5 %": time_queries(sql.stats, [hot] * queries),
            "live-sql activity, average project": time_queries(sql.activity, average * times),
            "live-sql activity, project of 5 %": time_queries(sql.activity, [hot] * queries),
        }


def _stats(sandbox: Sandbox, api: RunningApi, log: SyntheticLog) -> Measurement:
    return partial(
        generate_load, api.port, api.random_stats(log, _PROJECTS_READ, sandbox.size.requests // _ROUNDS_FACTOR)
    )


def _activity(sandbox: Sandbox, api: RunningApi, log: SyntheticLog) -> Measurement:
    return partial(
        generate_load, api.port, api.random_activity(log, _PROJECTS_READ, sandbox.size.requests // _ROUNDS_FACTOR)
    )


row = BenchmarkRow(
    "history",
    "both reads with a million events in the log (--large: five million), and with 10,000",
    (
        Goal("requests/s", "stats, long log", "stats, short log", at_least=0.95),
        Goal("requests/s", "activity, long log", "activity, short log", at_least=0.95),
    ),
    _contestants,
    rounds_factor=_ROUNDS_FACTOR,
)

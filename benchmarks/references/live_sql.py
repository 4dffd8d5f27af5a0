"""live-sql: computes both responses from the event log by SQL, with the best index for each and no read model.

It gets the project's id as a parameter, so it does not search for the holder of the slug.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from benchmarks.results import percentile
from benchmarks.row import Figures, Measurement
from benchmarks.subprocesses import BenchmarkError

_INDEXES = """
CREATE FUNCTION live_data(body bytea) RETURNS jsonb IMMUTABLE PARALLEL SAFE LANGUAGE sql
    AS $$ SELECT convert_from(body, 'UTF8')::jsonb -> 'data' $$;
CREATE INDEX live_stats ON event_log (tenant_id, project_id, time_us) WHERE type = 'analysis.created.v1';
CREATE INDEX live_activity ON event_log (tenant_id, project_id, time_us DESC, event_id DESC)
    WHERE type = 'watchdog.evaluated.v1';
CREATE INDEX live_watchdog ON event_log (tenant_id, project_id, time_us DESC, event_id DESC)
    WHERE type = 'watchdog.toggled.v1';
CREATE INDEX live_log_sources ON event_log
    (tenant_id, project_id, (live_data(body) ->> 'logSourceId'), time_us DESC, event_id DESC, type)
    WHERE type IN ('log_source.added.v1', 'log_source.removed.v1');
"""
_STATS = """
SELECT
    (SELECT json_agg(json_build_array(day, analyses) ORDER BY day) FROM (
        SELECT time_us / 86400000000 AS day, count(*) AS analyses FROM event_log
        WHERE tenant_id = %(tenant)s AND project_id = %(project)s AND type = 'analysis.created.v1'
            AND time_us >= %(since_us)s GROUP BY 1) AS by_day),
    (SELECT live_data(body) ->> 'enabled' FROM event_log
        WHERE tenant_id = %(tenant)s AND project_id = %(project)s AND type = 'watchdog.toggled.v1'
        ORDER BY time_us DESC, event_id DESC LIMIT 1),
    (SELECT count(*) FROM (
        SELECT DISTINCT ON (live_data(body) ->> 'logSourceId') type FROM event_log
        WHERE tenant_id = %(tenant)s AND project_id = %(project)s
            AND type IN ('log_source.added.v1', 'log_source.removed.v1')
        ORDER BY live_data(body) ->> 'logSourceId', time_us DESC, event_id DESC) AS latest
        WHERE type = 'log_source.added.v1')
"""
_ACTIVITY = """
SELECT json_agg(json_build_object('time_us', time_us, 'data', live_data(body))) FROM (
    SELECT time_us, body FROM event_log
    WHERE tenant_id = %(tenant)s AND project_id = %(project)s AND type = 'watchdog.evaluated.v1'
        AND time_us >= %(since_us)s
    ORDER BY time_us DESC, event_id DESC LIMIT 100) AS newest
"""
DAY_US = 86_400_000_000


class LiveSql:
    """Queries on the event log, over one connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        """Create the indexes."""
        self._connection = connection
        connection.execute(_INDEXES)
        connection.execute("VACUUM ANALYZE event_log")
        connection.execute("SET jit = off")

    def stats(self, tenant: str, project_id: str) -> tuple[Any, ...]:
        """Return (count by day, watchdog, number of log sources)."""
        return self._one(_STATS, tenant, project_id)

    def activity(self, tenant: str, project_id: str) -> list[Any]:
        """Return the newest evaluations."""
        return list(self._one(_ACTIVITY, tenant, project_id)[0] or [])

    def _one(self, query: str, tenant: str, project_id: str) -> tuple[Any, ...]:
        since_us = (time.time_ns() // 1000 // DAY_US - 29) * DAY_US
        values = {"tenant": tenant, "project": project_id, "since_us": since_us}
        row = self._connection.execute(query.encode(), values).fetchone()
        assert row is not None
        return row

    def check_agreement(self, stats: bytes, activity: bytes, tenant: str, project_id: str) -> None:
        """Raise BenchmarkError unless these responses of the API contain the same data."""
        data, (by_day, watchdog, log_sources) = json.loads(stats)["data"], self.stats(tenant, project_id)
        computed = (sum(count for _, count in by_day), [count for _, count in by_day], watchdog == "true", log_sources)
        trend = [day["count"] for day in data["dailyTrend"]]
        served = (data["analysisCount"], trend, data["watchdogEnabled"], data["logSourceCount"])
        entries = [each["summary"] for each in json.loads(activity)["data"]]
        if computed != served or entries != [each["data"]["summary"] for each in self.activity(tenant, project_id)]:
            raise BenchmarkError(f"live-sql and the API disagree: {computed} and {served}")


def time_queries(query: Callable[..., Any], projects: list[tuple[str, str]]) -> Measurement:
    """Return the measurement of a query for each of `projects`, one after another, without HTTP."""

    def measure() -> Figures:
        latencies_s = [_took_s(partial(query, *project)) for project in projects]
        return {"ms": percentile(latencies_s, 50) * 1000, "requests/s": len(latencies_s) / sum(latencies_s)}

    return measure


def _took_s(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started

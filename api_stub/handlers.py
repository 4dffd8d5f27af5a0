"""The handlers of the two reads: check, look up, answer."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from api_stub import checks, errors, keys
from api_stub.answers import DayCount, Stats, StatsAnswer
from api_stub.coalesce import Coalescer
from api_stub.keys import ApiKey
from api_stub.reads import ActivityAsk, StatsAsk, StatsRow, read_activity, read_stats

HOUR_US = 3_600_000_000
LANES = 2

K = TypeVar("K")
V = TypeVar("V")


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def json_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose body is JSON already."""
    return Response(body, status, headers, media_type="application/json")


@dataclass(frozen=True)
class Reads:
    """The handlers of the two reads; `clock` is what "now" means to both."""

    key_ring: checks.KeyRing
    key_of: Coalescer[str, ApiKey]
    stats_of: Coalescer[StatsAsk, StatsRow]
    activity_of: Coalescer[ActivityAsk, str]
    clock: Callable[[], int] = now_us

    @classmethod
    def on(cls, engine: Engine, executor: Executor, key_cache_s: float, clock: Callable[[], int] = now_us) -> "Reads":
        """Return the handlers that read from a database."""
        find_key = Coalescer(_query(engine, keys.find_many), executor)
        return cls(
            key_ring=checks.KeyRing(find_key.get, key_cache_s),
            key_of=find_key,
            stats_of=Coalescer(_query(engine, read_stats), executor, LANES),
            activity_of=Coalescer(_query(engine, read_activity), executor, LANES),
            clock=clock,
        )

    def coalescers(self) -> Mapping[str, Coalescer[Any, Any]]:
        """Return by what is looked up the place where such lookups meet."""
        return {"key": self.key_of, "stats": self.stats_of, "activity": self.activity_of}

    async def stats(self, request: Request) -> Response:
        """GET /v1/config/projects/{slug}/stats (CONTRACT 2.2)."""
        now = self.clock()
        key = await self.key_ring.reader(request, now)
        slug = checks.slug(request)
        wanted = checks.project_header(request)
        checks.no_min_position(request)
        row = await self.stats_of.get(StatsAsk(key.tenant_id, slug))
        if row is None:
            raise errors.no_such_project()
        if row.project_id != (key.project_id or row.project_id) or row.project_id != (wanted or row.project_id):
            raise errors.forbidden("WRONG_PROJECT", "This slug belongs to another project than the request's.")
        trend = row.trend(now)
        stats = Stats(
            analysis_count=sum(count for _, count in trend),
            log_source_count=row.log_source_count,
            repo_count=row.repo_count,
            notification_channel_count=row.notification_channel_count,
            support_desk_count=row.support_desk_count,
            watchdog_enabled=row.watchdog_enabled,
            daily_trend=[DayCount(date=date, count=count) for date, count in trend],
        )
        return json_response(200, StatsAnswer(data=stats).model_dump_json(by_alias=True).encode())

    async def activity(self, request: Request) -> Response:
        """GET /v1/config/monitoring/activity (CONTRACT 2.3)."""
        now = self.clock()
        key = await self.key_ring.reader(request, now)
        hours = checks.hours(request)
        project_id = checks.project_header(request) or key.project_id
        checks.no_min_position(request)
        if project_id is None:
            raise errors.missing_project_id()
        entries = await self.activity_of.get(ActivityAsk(key.tenant_id, project_id, now - hours * HOUR_US))
        if entries is None:
            raise errors.no_such_project()
        if project_id != (key.project_id or project_id):
            raise errors.forbidden("WRONG_PROJECT", "This API key is bound to another project.")
        return json_response(200, b'{"success":true,"data":[' + entries.encode() + b"]}")


def _query(
    engine: Engine, read: Callable[[Connection, Sequence[K]], Mapping[K, V]]
) -> Callable[[Sequence[K]], Mapping[K, V]]:
    def query(asks: Sequence[K]) -> Mapping[K, V]:
        try:
            with engine.connect() as connection:
                return read(connection, asks)
        except SQLAlchemyError as error:
            raise errors.unavailable() from error

    return query

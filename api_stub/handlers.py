"""The handlers of the two reads: check, look up, answer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from api_stub import checks, errors, keys
from api_stub.coalesce import Coalescer
from api_stub.keys import ApiKey, KeyAsk
from api_stub.lookup import Database
from api_stub.reads import ActivityAsk, NotFilled, StatsAsk, StatsRow, activity_lookup, stats_lookup

HOUR_US = 3_600_000_000


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
    key_of: Coalescer[KeyAsk, ApiKey]
    stats_of: Coalescer[StatsAsk, StatsRow | NotFilled]
    activity_of: Coalescer[ActivityAsk, bytes | NotFilled]
    clock: Callable[[], int] = now_us

    @classmethod
    def on(cls, database: Database, key_cache_s: float, clock: Callable[[], int] = now_us) -> "Reads":
        """Return the handlers that read from a database."""
        find_key = Coalescer(partial(database.read, keys.lookup))
        return cls(
            key_ring=checks.KeyRing(find_key.get, key_cache_s),
            key_of=find_key,
            stats_of=Coalescer(partial(database.read, stats_lookup)),
            activity_of=Coalescer(partial(database.read, activity_lookup)),
            clock=clock,
        )

    def coalescers(self) -> Mapping[str, Coalescer[Any, Any]]:
        """Return by what is looked up the place where such lookups meet."""
        return {"key": self.key_of, "stats": self.stats_of, "activity": self.activity_of}

    async def stats(self, request: Request) -> Response:
        """GET /v1/config/projects/{slug}/stats (docs/reference/api.md#stats)."""
        now = self.clock()
        key = await self.key_ring.reader(request, now)
        slug = checks.slug(request)
        wanted = checks.project_header(request)
        checks.no_min_position(request)
        row = await self.stats_of.get(StatsAsk(key.tenant_id, slug))
        if row is None:
            raise errors.no_such_project()
        if isinstance(row, NotFilled):
            raise errors.not_filled()
        if row.project_id != (key.project_id or row.project_id) or row.project_id != (wanted or row.project_id):
            raise errors.forbidden("WRONG_PROJECT", "This slug belongs to another project than the request's.")
        trend = row.trend(now)
        # A dict, because the models would cost more than the lookup; a test holds the two together.
        stats = {
            "analysisCount": sum(count for _, count in trend),
            "logSourceCount": row.log_source_count,
            "repoCount": row.repo_count,
            "notificationChannelCount": row.notification_channel_count,
            "supportDeskCount": row.support_desk_count,
            "watchdogEnabled": row.watchdog_enabled,
            "dailyTrend": [{"date": date, "count": count} for date, count in trend],
        }
        return json_response(200, to_json({"success": True, "data": stats}))

    async def activity(self, request: Request) -> Response:
        """GET /v1/config/monitoring/activity (docs/reference/api.md#activity)."""
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
        if isinstance(entries, NotFilled):
            raise errors.not_filled()
        if project_id != (key.project_id or project_id):
            raise errors.forbidden("WRONG_PROJECT", "This API key is bound to another project.")
        return json_response(200, b'{"success":true,"data":[' + entries + b"]}")

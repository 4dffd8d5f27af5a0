"""GET /v1/config/projects/{slug}/stats: rollup counts and the 30-day trend (docs/reference/api.md#stats)."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field
from pydantic_core import to_json
from sqlalchemy import Select, func, select
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.auth.keys import ApiKey
from api_stub.lookups.lookup import Lookup
from api_stub.responses import ResponseModel, Success, json_response
from api_stub.routes.parameters import PROJECT_HEADER, project_header, reject_min_position
from api_stub.routes.read import (
    REBUILD_PENDING,
    Find,
    OpenApiOperation,
    Read,
    RebuildPending,
    is_rebuild_pending,
    require_found,
)
from api_stub.routes.trend import DayCount, render_trend
from projections.database.columns import Row
from projections.database.key_queries import key_rows
from projections.read_models.analysis_trend import by_day_from_json
from projections.read_models.analysis_trend import table as analysis_trend
from projections.read_models.project import table as project
from projections.read_models.tenant import table as tenant
from projections.transaction.projection_version import table as projection_version

_READ_MODELS = ("analysis_trend", "project", "tenant")
_SLUG = re.compile(r"[a-z0-9-]{1,100}", re.ASCII)
_SLUG_PARAMETER = {
    "name": "slug",
    "in": "path",
    "required": True,
    "description": "The project's slug.",
    "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,100}$"},
    "example": "checkout-api",
}


class Stats(ResponseModel):
    """A project's rollup counts and its 30-day trend."""

    analysis_count: int = Field(ge=0, description="Analyses created in the last 30 UTC days, today included.")
    log_source_count: int = Field(ge=0)
    repo_count: int = Field(ge=0)
    notification_channel_count: int = Field(ge=0)
    support_desk_count: int = Field(ge=0, description="Support-desk bindings of the tenant.")
    watchdog_enabled: bool
    daily_trend: list[DayCount] = Field(description="Days with at least one analysis, ascending.")


StatsResponse = Success[Stats]


class StatsKey(NamedTuple):
    """The key of a lookup: a tenant and the slug of one of its projects."""

    tenant_id: str
    slug: str


class StatsRow(NamedTuple):
    """A project's stats in the read models. `by_day` has the number of analyses by day since 1970 UTC, ascending."""

    project_id: str
    log_source_count: int
    repo_count: int
    notification_channel_count: int
    support_desk_count: int
    watchdog_enabled: bool
    by_day: Mapping[int, int]


def _results(rows: Iterable[Row]) -> dict[StatsKey, StatsRow | RebuildPending]:
    results: dict[StatsKey, StatsRow | RebuildPending] = {}
    for tenant_id, slug, versions, project_id, log_sources, repos, channels, desks, watchdog, by_day in rows:
        key = StatsKey(tenant_id, slug)
        if is_rebuild_pending(versions, _READ_MODELS):
            results[key] = REBUILD_PENDING
        elif project_id is not None:
            counts = by_day_from_json(by_day or "[]")
            results[key] = StatsRow(project_id, log_sources, repos, channels, desks, watchdog, counts)
    return results


@cache
def _statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [project.c.tenant_id, project.c.slug])
    tenant_id, slug = keys.c
    holder = project.alias("holder")
    latest_holder = (
        select(holder.c.project_id)
        .where(holder.c.tenant_id == tenant_id, holder.c.slug == slug, holder.c.project_exists)
        .order_by(holder.c.slug_time_us.desc(), holder.c.slug_event_id.desc())
        .limit(1)
        .correlate(keys)
        .scalar_subquery()
    )
    return (
        select(
            tenant_id,
            slug,
            projection_version.c.versions,
            project.c.project_id,
            project.c.log_source_count,
            project.c.repo_count,
            project.c.notification_channel_count,
            func.coalesce(tenant.c.support_desk_count, 0),
            project.c.watchdog_enabled,
            analysis_trend.c.by_day,
        )
        .select_from(keys)
        .outerjoin(projection_version, projection_version.c.tenant_id == tenant_id)
        # An outer join makes every planner start with the keys, even if it estimates that there are few projects.
        .outerjoin(project, (project.c.tenant_id == tenant_id) & (project.c.project_id == latest_holder))
        .outerjoin(tenant, tenant.c.tenant_id == tenant_id)
        .outerjoin(
            analysis_trend,
            (analysis_trend.c.tenant_id == tenant_id) & (analysis_trend.c.project_id == project.c.project_id),
        )
    )


lookup = Lookup(_statement, _results)
"""Looks up the stats of the existing project that holds a slug."""


async def handle(request: Request, key: ApiKey, now_us: int, find: Find[StatsKey, StatsRow]) -> Response:
    """Return the stats of the project that holds the slug in the path."""
    slug = _slug(request)
    requested = project_header(request)
    reject_min_position(request)
    row = require_found(await find(StatsKey(key.tenant_id, slug)))
    if row.project_id != (key.project_id or row.project_id) or row.project_id != (requested or row.project_id):
        raise errors.forbidden("WRONG_PROJECT", "This slug does not belong to the project of the key or X-Project-Id.")
    trend = render_trend(row.by_day.items(), now_us)
    # Return a dict, because building the models costs more than the lookup. A test compares the dict with the models.
    stats = {
        "analysisCount": sum(day["count"] for day in trend),
        "logSourceCount": row.log_source_count,
        "repoCount": row.repo_count,
        "notificationChannelCount": row.notification_channel_count,
        "supportDeskCount": row.support_desk_count,
        "watchdogEnabled": row.watchdog_enabled,
        "dailyTrend": trend,
    }
    return json_response(200, to_json({"success": True, "data": stats}))


def _slug(request: Request) -> str:
    value = str(request.path_params["slug"])
    if not _SLUG.fullmatch(value):
        raise errors.invalid("slug", "must be 1 to 100 characters of a-z, 0-9 and -")
    return value


read = Read(
    "stats",
    path="/v1/config/projects/{slug}/stats",
    lookup=lookup,
    handle=handle,
    openapi=OpenApiOperation(
        "getProjectStats",
        summary="Rollup counts and the 30-day trend of one project.",
        parameters=(_SLUG_PARAMETER, PROJECT_HEADER),
        response=StatsResponse,
        response_description="The stats.",
    ),
)

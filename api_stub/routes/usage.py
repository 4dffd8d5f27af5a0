"""GET /v1/config/usage: how many analyses a tenant created this month (docs/reference/api.md#usage)."""

from calendar import monthrange
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field
from pydantic_core import to_json
from sqlalchemy import Select, select
from starlette.requests import Request
from starlette.responses import Response

from api_stub.auth.keys import ApiKey
from api_stub.lookups.lookup import Lookup
from api_stub.responses import ResponseModel, Success, json_response
from api_stub.routes.parameters import reject_min_position
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
from projections.read_models.analysis_trend import (
    DAY_US,
    NO_ANALYSES,
    SEVERITIES,
    MonthCounts,
    by_day_from_json,
    by_month_from_json,
    month_of,
)
from projections.read_models.analysis_trend import table as analysis_trend
from projections.read_models.project import table as project
from projections.read_models.tenant import table as tenant
from projections.transaction.projection_version import table as projection_version

_READ_MODELS = ("analysis_trend", "project", "tenant")
_EPOCH = date(1970, 1, 1)


class ProjectUsage(ResponseModel):
    """The analyses of one project this month."""

    project_id: str
    project_name: str
    count: int = Field(ge=1)


class SeverityCounts(ResponseModel):
    """The analyses of this month by severity. An analysis without a severity is in none of them."""

    critical: int = Field(ge=0)
    high: int = Field(ge=0)
    medium: int = Field(ge=0)
    low: int = Field(ge=0)
    info: int = Field(ge=0)


class Usage(ResponseModel):
    """A tenant's usage in the present calendar month, in UTC."""

    analyses_this_month: int = Field(ge=0)
    plan_limit: int | None = Field(ge=0, description="Analyses that the plan allows in a month; null for unlimited.")
    projected_end_of_month: int = Field(ge=0, description="The month's analyses if it goes on like this.")
    days_remaining: int = Field(ge=0, le=30, description="Days of the month after today.")
    by_project: list[ProjectUsage] = Field(description="Existing projects, the one with the most analyses first.")
    by_severity: SeverityCounts
    daily_trend: list[DayCount] = Field(description="The last 30 days, without those that have no analyses.")


class UsageKey(NamedTuple):
    """The key of a lookup: a tenant."""

    tenant_id: str


class ProjectAnalyses(NamedTuple):
    """The analyses of a project in the read models. `name` is None if the project does not exist."""

    project_id: str
    name: str | None
    by_day: Mapping[int, int]
    by_month: Mapping[int, MonthCounts]


class TenantUsage(NamedTuple):
    """The plan of a tenant and the analyses of its projects."""

    plan_limit: int | None
    projects: list[ProjectAnalyses]

    def usage(self, now_us: int) -> dict[str, Any]:
        """Return the members of Usage. A test compares them with the model."""
        today = now_us // DAY_US
        its_date = _EPOCH + timedelta(days=today)
        days_in_month = monthrange(its_date.year, its_date.month)[1]
        of_month = [each.by_month.get(month_of(today), NO_ANALYSES) for each in self.projects]
        total, *by_severity = (sum(counts) for counts in zip(NO_ANALYSES, *of_month, strict=True))
        by_project = [
            {"projectId": each.project_id, "projectName": each.name, "count": count}
            for each, (count, *_) in zip(self.projects, of_month, strict=True)
            if each.name is not None and count
        ]
        by_day: Counter[int] = Counter()
        for each in self.projects:
            by_day.update(each.by_day)
        return {
            "analysesThisMonth": total,
            "planLimit": self.plan_limit,
            # Rounded half up.
            "projectedEndOfMonth": (2 * total * days_in_month + its_date.day) // (2 * its_date.day),
            "daysRemaining": days_in_month - its_date.day,
            "byProject": sorted(by_project, key=lambda each: (-each["count"], each["projectId"])),
            "bySeverity": dict(zip(SEVERITIES, by_severity, strict=True)),
            "dailyTrend": render_trend(sorted(by_day.items()), now_us),
        }


def _results(rows: Iterable[Row]) -> dict[UsageKey, TenantUsage | RebuildPending]:
    results: dict[UsageKey, TenantUsage | RebuildPending] = {}
    for tenant_id, versions, plan_limit, project_id, name, by_day, by_month in rows:
        key = UsageKey(tenant_id)
        found = results.setdefault(key, TenantUsage(plan_limit, []))
        if isinstance(found, RebuildPending) or is_rebuild_pending(versions, _READ_MODELS):
            results[key] = REBUILD_PENDING
        elif project_id is not None:
            counts = by_day_from_json(by_day), by_month_from_json(by_month)
            found.projects.append(ProjectAnalyses(project_id, name, *counts))
    return results


@cache
def _statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [tenant.c.tenant_id])
    (tenant_id,) = keys.c
    is_project = (project.c.tenant_id == tenant_id) & (project.c.project_id == analysis_trend.c.project_id)
    return (
        select(
            tenant_id,
            projection_version.c.versions,
            tenant.c.plan_limit,
            analysis_trend.c.project_id,
            project.c.name,
            analysis_trend.c.by_day,
            analysis_trend.c.by_month,
        )
        .select_from(keys)
        .outerjoin(projection_version, projection_version.c.tenant_id == tenant_id)
        .outerjoin(tenant, tenant.c.tenant_id == tenant_id)
        .outerjoin(analysis_trend, analysis_trend.c.tenant_id == tenant_id)
        .outerjoin(project, is_project & project.c.project_exists)
    )


lookup = Lookup(_statement, _results, keys_per_query=4)
"""Looks up the plan of a tenant and the analyses of its projects."""


async def handle(request: Request, key: ApiKey, now_us: int, find: Find[UsageKey, TenantUsage]) -> Response:
    """Return the usage of the key's tenant."""
    reject_min_position(request)
    found = require_found(await find(UsageKey(key.tenant_id)))
    return json_response(200, to_json({"success": True, "data": found.usage(now_us)}))


read = Read(
    "usage",
    path="/v1/config/usage",
    lookup=lookup,
    handle=handle,
    is_of_tenant=True,
    openapi=OpenApiOperation(
        "getUsage",
        summary="How many analyses the tenant created this month, by project and severity, and what its plan allows.",
        parameters=(),
        response=Success[Usage],
        response_description="The usage.",
    ),
)

"""GET /v1/config/projects: every existing project of a tenant (docs/reference/api.md#projects)."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field
from pydantic_core import to_json
from sqlalchemy import Select, func, select, tuple_
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.auth.keys import ApiKey
from api_stub.lookups.lookup import Lookup
from api_stub.responses import ResponseModel, Success, json_response
from api_stub.routes.parameters import reject_min_position, whole_number
from api_stub.routes.read import (
    REBUILD_PENDING,
    Find,
    OpenApiOperation,
    Read,
    RebuildPending,
    is_rebuild_pending,
    require_found,
)
from event_stream.events.rfc3339 import format_time
from projections.database.columns import Row
from projections.database.key_queries import key_rows
from projections.read_models.analysis_trend import table as analysis_trend
from projections.read_models.project import table as project
from projections.read_models.project_details import table as project_details
from projections.transaction.projection_version import table as projection_version

PROJECTS_MAX = 1000
_READ_MODELS = ("analysis_trend", "project", "project_details")
_AFTER_PATTERN = r"^([0-9]{1,18})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$"
_AFTER = re.compile(_AFTER_PATTERN.strip("^$"), re.ASCII)
_LIMIT_PARAMETER = {
    "name": "limit",
    "in": "query",
    "required": False,
    "description": "The most projects to return.",
    "schema": {"type": "integer", "minimum": 1, "maximum": PROJECTS_MAX, "default": PROJECTS_MAX},
}
_AFTER_PARAMETER = {
    "name": "after",
    "in": "query",
    "required": False,
    "description": "`nextAfter` of the page before this one.",
    "schema": {"type": "string", "pattern": _AFTER_PATTERN},
}


class ProjectSummary(ResponseModel):
    """One project."""

    id: str = Field(description="The project's UUID.")
    name: str
    slug: str
    description: str | None
    is_default: bool
    llm_context: str | None = Field(description="What a language model should know about the project.")
    created_at: str = Field(description="Time of the latest created event: RFC 3339, UTC, with `Z`.")
    updated_at: str = Field(description="Time of the latest created or updated event.")
    analysis_count: int = Field(ge=0, description="All analyses ever created.")
    log_source_count: int = Field(ge=0)


class ProjectsResponse(Success[list[ProjectSummary]]):
    """A page of projects. `nextAfter` is present only if there are more."""

    next_after: str | None = Field(default=None, description="Send it as `after` to get the next page.")


class ProjectsKey(NamedTuple):
    """The key of a lookup: the page of a tenant's projects after the one created at this time with this id."""

    tenant_id: str
    after_us: int
    after_id: str
    limit: int


class ProjectRow(NamedTuple):
    """A project in the read models; `project_id` is None in the only row of an empty page."""

    created_us: int
    project_id: str | None
    name: str
    slug: str
    description: str | None
    is_default: bool
    llm_context: str | None
    updated_us: int
    analysis_count: int
    log_source_count: int

    def summary(self) -> dict[str, Any]:
        """Return the members of ProjectSummary. A test compares them with the model."""
        return {
            "id": self.project_id,
            "name": self.name,
            "slug": self.slug,
            "description": self.description,
            "isDefault": self.is_default,
            "llmContext": self.llm_context,
            "createdAt": format_time(self.created_us),
            "updatedAt": format_time(self.updated_us),
            "analysisCount": self.analysis_count,
            "logSourceCount": self.log_source_count,
        }

    def cursor(self) -> str:
        """Return the value of `after` for the projects after this one."""
        return f"{self.created_us}-{self.project_id}"


def _results(rows: Iterable[Row]) -> dict[ProjectsKey, list[ProjectRow] | RebuildPending]:
    results: dict[ProjectsKey, list[ProjectRow] | RebuildPending] = {}
    for tenant_id, after_us, after_id, limit, versions, *columns in rows:
        key = ProjectsKey(tenant_id, after_us, after_id, limit)
        page = results.setdefault(key, [])
        if isinstance(page, RebuildPending) or is_rebuild_pending(versions, _READ_MODELS):
            results[key] = REBUILD_PENDING
        elif (row := ProjectRow(*columns)).project_id is not None:
            page.append(row)
    return results


@cache
def _statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(
        dialect_name,
        [project.c.tenant_id, project.c.exists_time_us, project.c.project_id, project.c.log_source_count],
    )
    tenant_id, after_us, after_id, *_ = keys.c
    is_after = tuple_(project.c.exists_time_us, project.c.project_id) > tuple_(after_us, after_id)
    order = (project.c.exists_time_us, project.c.project_id)
    page = (
        select(
            *(each.label(name) for each, name in zip(keys.c, ProjectsKey._fields, strict=True)),
            *(project.c[name] for name in ("exists_time_us", "project_id", "name", "slug", "log_source_count")),
            func.row_number().over(partition_by=list(keys.c), order_by=order).label("number"),
        )
        .select_from(keys)
        .outerjoin(project, (project.c.tenant_id == tenant_id) & project.c.project_exists & is_after)
        .subquery("page")
    )
    same_project = [
        (table.c.tenant_id == page.c.tenant_id) & (table.c.project_id == page.c.project_id)
        for table in (project_details, analysis_trend)
    ]
    return (
        select(
            *(page.c[name] for name in ProjectsKey._fields),
            projection_version.c.versions,
            page.c.exists_time_us,
            page.c.project_id,
            page.c.name,
            page.c.slug,
            project_details.c.description,
            project_details.c.is_default,
            project_details.c.llm_context,
            project_details.c.updated_time_us,
            func.coalesce(analysis_trend.c.total, 0),
            page.c.log_source_count,
        )
        .select_from(page)
        .outerjoin(projection_version, projection_version.c.tenant_id == page.c.tenant_id)
        .outerjoin(project_details, same_project[0])
        .outerjoin(analysis_trend, same_project[1])
        .where(page.c.number <= page.c.limit + 1)
        .order_by(page.c.exists_time_us, page.c.project_id)
    )


lookup = Lookup(_statement, _results, keys_per_query=4)
"""Looks up a page of a tenant's projects, and one project more if there is one."""


async def handle(request: Request, key: ApiKey, _now_us: int, find: Find[ProjectsKey, list[ProjectRow]]) -> Response:
    """Return the projects of the key's tenant."""
    limit = whole_number(request, "limit", default=PROJECTS_MAX, maximum=PROJECTS_MAX)
    after_us, after_id = _after(request)
    reject_min_position(request)
    found = require_found(await find(ProjectsKey(key.tenant_id, after_us, after_id, limit)))
    answer: dict[str, Any] = {"success": True, "data": [row.summary() for row in found[:limit]]}
    if len(found) > limit:
        answer["nextAfter"] = found[limit - 1].cursor()
    return json_response(200, to_json(answer))


def _after(request: Request) -> tuple[int, str]:
    """Return the creation time and id after which the page begins."""
    values = request.query_params.getlist("after")
    if not values:
        return (-1, "")
    if len(values) == 1 and (match := _AFTER.fullmatch(values[0])):
        return (int(match[1]), match[2])
    raise errors.invalid("after", "must be the value of `nextAfter` in a response, given once")


read = Read(
    "projects",
    path="/v1/config/projects",
    lookup=lookup,
    handle=handle,
    is_of_tenant=True,
    openapi=OpenApiOperation(
        "listProjects",
        summary="Every existing project of the tenant, oldest first.",
        parameters=(_LIMIT_PARAMETER, _AFTER_PARAMETER),
        response=ProjectsResponse,
        response_description="A page of projects.",
    ),
)

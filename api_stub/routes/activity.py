"""GET /v1/config/monitoring/activity: the newest watchdog evaluations of a project (docs/reference/api.md#activity)."""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field
from sqlalchemy import ColumnElement, LargeBinary, Select, Text, cast, func, select, type_coerce
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.auth.keys import ApiKey
from api_stub.lookups.lookup import Lookup
from api_stub.responses import ResponseModel, Success, json_response
from api_stub.routes.parameters import PROJECT_HEADER, project_header, reject_min_position, whole_number
from api_stub.routes.read import (
    REBUILD_PENDING,
    Find,
    OpenApiOperation,
    Read,
    RebuildPending,
    is_rebuild_pending,
    require_found,
)
from event_stream.events.event_types import Severity, SuppressedReason
from projections.database.columns import Row
from projections.database.key_queries import key_rows
from projections.read_models.activity import ENTRIES_KEPT
from projections.read_models.activity import table as activity
from projections.read_models.project import table as project
from projections.transaction.projection_version import table as projection_version

HOUR_US = 3_600_000_000
HOURS_DEFAULT = 24
HOURS_MAX = 720
_READ_MODELS = ("activity", "project")
_HOURS_PARAMETER = {
    "name": "hours",
    "in": "query",
    "required": False,
    "description": "How far back to look.",
    "schema": {"type": "integer", "minimum": 1, "maximum": HOURS_MAX, "default": HOURS_DEFAULT},
}


class ActivityEntry(ResponseModel):
    """One watchdog evaluation."""

    timestamp: str = Field(description="When the check ran: RFC 3339, UTC, with `Z`.")
    rule_id: str
    rule_name: str
    passed: bool
    alert_fired: bool
    suppressed_reason: SuppressedReason | None
    severity: Severity
    summary: str


ActivityResponse = Success[list[ActivityEntry]]


class ActivityKey(NamedTuple):
    """The key of a lookup: a project, and the time (microseconds since 1970 UTC) after which evaluations are wanted."""

    tenant_id: str
    project_id: str
    after_us: int


def _results(rows: Iterable[Row]) -> dict[ActivityKey, bytes | RebuildPending]:
    results: dict[ActivityKey, bytes | RebuildPending] = {}
    for *key, versions, exists, entries in rows:
        if is_rebuild_pending(versions, _READ_MODELS):
            results[ActivityKey(*key)] = REBUILD_PENDING
        elif exists:
            results[ActivityKey(*key)] = entries or b""
    return results


@cache
def _statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [activity.c.tenant_id, activity.c.project_id, activity.c.time_us])
    tenant_id, project_id, after_us = keys.c
    newest = (
        select(activity.c.evaluation)
        .where(activity.c.tenant_id == tenant_id, activity.c.project_id == project_id, activity.c.time_us > after_us)
        .order_by(activity.c.time_us.desc(), activity.c.event_id.desc())
        .limit(ENTRIES_KEPT)
        .correlate(keys)
        .subquery("newest")
    )
    # Both aggregates keep the subquery's order; sorting again would add 10 % to the time. The result is bytes, because
    # the response sends them unchanged (docs/decisions/0039-activity-as-bytes.md).
    joined: ColumnElement[Any]
    if dialect_name == "postgresql":
        joined = func.convert_to(func.string_agg(newest.c.evaluation, type_coerce(",", Text)), "UTF8")
    else:
        joined = cast(func.group_concat(newest.c.evaluation, ","), LargeBinary)
    return (
        select(
            tenant_id,
            project_id,
            after_us,
            projection_version.c.versions,
            project.c.project_exists,
            select(joined).select_from(newest).correlate(keys).scalar_subquery(),
        )
        .select_from(keys)
        .outerjoin(projection_version, projection_version.c.tenant_id == tenant_id)
        .outerjoin(
            project,
            (project.c.tenant_id == tenant_id) & (project.c.project_id == project_id) & project.c.project_exists,
        )
    )


lookup = Lookup(_statement, _results)
"""Looks up the newest entries of an existing project, newest first, as JSON objects in UTF-8 separated by commas."""


async def handle(request: Request, key: ApiKey, now_us: int, find: Find[ActivityKey, bytes]) -> Response:
    """Return the newest evaluations of the project that the header or the API key names."""
    hours = whole_number(request, "hours", default=HOURS_DEFAULT, maximum=HOURS_MAX)
    project_id = project_header(request) or key.project_id
    reject_min_position(request)
    if project_id is None:
        raise errors.missing_project_id()
    entries = require_found(await find(ActivityKey(key.tenant_id, project_id, now_us - hours * HOUR_US)))
    if project_id != (key.project_id or project_id):
        raise errors.forbidden("WRONG_PROJECT", "This API key is bound to another project.")
    return json_response(200, b'{"success":true,"data":[' + entries + b"]}")


read = Read(
    "activity",
    path="/v1/config/monitoring/activity",
    lookup=lookup,
    handle=handle,
    openapi=OpenApiOperation(
        "getMonitoringActivity",
        summary="The newest watchdog evaluations of one project, newest first, at most 100.",
        parameters=(_HOURS_PARAMETER, PROJECT_HEADER),
        response=ActivityResponse,
        response_description="The entries.",
    ),
)

"""GET /v1/config/monitoring/activity: the newest watchdog evaluations of a project (docs/reference/api.md#activity)."""

import re
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
from api_stub.routes.parameters import PROJECT_HEADER, no_min_position, project_header
from api_stub.routes.read import NOT_FILLED, Find, NotFilled, OpenApi, Read, found, lack_rows
from event_stream.event_types import Severity, SuppressedReason
from projections.database.bulk import key_rows
from projections.database.columns import Row
from projections.read_models.activity import ENTRIES_KEPT
from projections.read_models.activity import table as activity
from projections.read_models.project import table as project
from projections.transaction.projection_version import table as projection_version

HOUR_US = 3_600_000_000
HOURS_DEFAULT = 24
HOURS_MAX = 720
_READ_MODELS = ("activity", "project")
_HOURS = re.compile(r"[0-9]{1,4}", re.ASCII)
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


ActivityAnswer = Success[list[ActivityEntry]]


class ActivityAsk(NamedTuple):
    """Which project's activity, and from when on (exclusive), in microseconds since 1970 UTC."""

    tenant_id: str
    project_id: str
    after_us: int


def _answers(rows: Iterable[Row]) -> dict[ActivityAsk, bytes | NotFilled]:
    answers: dict[ActivityAsk, bytes | NotFilled] = {}
    for *key, versions, exists, entries in rows:
        if lack_rows(versions, _READ_MODELS):
            answers[ActivityAsk(*key)] = NOT_FILLED
        elif exists:
            answers[ActivityAsk(*key)] = entries or b""
    return answers


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
    # Both take the rows as the ordered subquery gives them; to say their order once more took a tenth of the time.
    # As bytes, because they go to the reader as they are: text would be decoded and encoded again.
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


lookup = Lookup(_statement, _answers)
"""The newest entries of each ask whose project exists in its tenant: UTF-8 JSON with commas between, newest first."""


async def handle(request: Request, key: ApiKey, now_us: int, find: Find[ActivityAsk, bytes]) -> Response:
    """Answer with the newest evaluations of the project that the header or the key names."""
    hours = _hours(request)
    project_id = project_header(request) or key.project_id
    no_min_position(request)
    if project_id is None:
        raise errors.missing_project_id()
    entries = found(await find(ActivityAsk(key.tenant_id, project_id, now_us - hours * HOUR_US)))
    if project_id != (key.project_id or project_id):
        raise errors.forbidden("WRONG_PROJECT", "This API key is bound to another project.")
    return json_response(200, b'{"success":true,"data":[' + entries + b"]}")


def _hours(request: Request) -> int:
    values = request.query_params.getlist("hours")
    if not values:
        return HOURS_DEFAULT
    if len(values) == 1 and _HOURS.fullmatch(values[0]) and 1 <= int(values[0]) <= HOURS_MAX:
        return int(values[0])
    raise errors.invalid("hours", f"must be a whole number from 1 to {HOURS_MAX}, given once")


read = Read(
    "activity",
    path="/v1/config/monitoring/activity",
    lookup=lookup,
    handle=handle,
    openapi=OpenApi(
        "getMonitoringActivity",
        summary="The newest watchdog evaluations of one project, newest first, at most 100.",
        parameters=(_HOURS_PARAMETER, PROJECT_HEADER),
        response=ActivityAnswer,
        description="The entries.",
    ),
)

"""The reads of a whole tenant on both databases: the list of projects and the usage."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, update

from api_stub.auth.keys import KeyKind
from api_stub.responses import Success
from api_stub.routes.projects import ProjectsResponse
from api_stub.routes.usage import Usage
from projections.read_models import analysis_trend, project_details, tenant
from projections.testing import given
from projections.transaction.projection_version import table as projection_version
from tests.support.api_client import Api
from tests.support.events import OTHER_PROJECT, PROJECT, TENANT, event
from tests.support.harness import append, drain_all
from workers.runtime import Runtime

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
PROJECTS = "/v1/config/projects"
USAGE = "/v1/config/usage"
EARLY, LATE = "2026-04-25T10:00:00Z", "2026-04-25T11:00:00Z"
FOREIGN = {"tenantid": "ten_foreign"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def api(writer: Engine, reader: Engine) -> Iterator[Api]:
    made = Api(writer, reader)
    yield made
    made.close()


def project_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def analyses(time: str, count: int = 1, severity: str | None = None, **attributes: Any) -> list[dict[str, Any]]:
    return [event("analysis.created.v1", {"severity": severity}, time=time, **attributes) for _ in range(count)]


def at(api: Api, time: str) -> None:
    """Set the clock of the API."""
    api.now_us = int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp() * 1_000_000)


async def body(api: Api, path: str, key: str) -> Any:
    response = await api.ask(path, key)
    assert response.status_code == 200
    return response.json()


# --- the list of projects --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_project", [True, False])
async def test_every_key_lists_all_existing_projects_of_its_tenant(
    runtime: Runtime, api: Api, with_project: bool
) -> None:
    created = {"description": None, "isDefault": True, "llmContext": "Payments use Stripe."}
    append(
        runtime,
        event("project.created.v1", created, time=LATE),
        event("project.updated.v1", {"slug": None, "name": "Renamed", "description": "é"}, time="2026-04-25T12:00:00Z"),
        event("project.created.v1", {"slug": "other", "name": "Other"}, time=EARLY, projectid=OTHER_PROJECT),
        event("project.created.v1", {"slug": "gone"}, time=EARLY, projectid=project_id(1)),
        event("project.deleted.v1", time=LATE, projectid=project_id(1)),
        event("log_source.added.v1", time=EARLY, projectid=project_id(2)),
        event("log_source.added.v1", time=EARLY),
        *analyses("2020-01-01T00:00:00Z", 3),
        event("project.created.v1", projectid=project_id(3), **FOREIGN),
    )
    drain_all(runtime)
    response = await api.ask(PROJECTS, api.key(TENANT, PROJECT if with_project else None))
    other = {"description": "x", "isDefault": False, "llmContext": None, "createdAt": EARLY, "updatedAt": EARLY}
    counts = {"analysisCount": 0, "logSourceCount": 0}
    assert response.json() == {
        "success": True,
        "data": [
            {"id": OTHER_PROJECT, "name": "Other", "slug": "other", **other, **counts},
            {
                "id": PROJECT,
                "name": "Renamed",
                "slug": "checkout-api",
                "description": "é",
                "isDefault": True,
                "llmContext": "Payments use Stripe.",
                "createdAt": LATE,
                "updatedAt": "2026-04-25T12:00:00Z",
                "analysisCount": 3,
                "logSourceCount": 1,
            },
        ],
    }
    model = ProjectsResponse.model_validate_json(response.content, strict=True)
    assert model.model_dump_json(by_alias=True, exclude_unset=True).encode() == response.content


async def test_a_tenant_without_projects_has_an_empty_list(api: Api) -> None:
    assert await body(api, PROJECTS, api.key("ten_nobody")) == {"success": True, "data": []}


async def test_pages_have_every_project_once_in_the_order_of_creation(runtime: Runtime, api: Api) -> None:
    # Several projects were created at the same time.
    times = {project_id(9 - number): f"2026-04-25T0{number // 3}:00:00Z" for number in range(10)}
    append(
        runtime,
        *(event("project.created.v1", time=time, projectid=each) for each, time in times.items()),
        *(event("project.created.v1", time=time, projectid=each, **FOREIGN) for each, time in times.items()),
    )
    drain_all(runtime)
    key, found, after, pages = api.key(TENANT), [], "", 0
    while True:
        answer = await body(api, f"{PROJECTS}?limit=4{after}", key)
        found += [project["id"] for project in answer["data"]]
        pages += 1
        if "nextAfter" not in answer:
            break
        after = f"&after={answer['nextAfter']}"
    assert found == sorted(times, key=lambda each: (times[each], each))
    assert pages == 3
    assert "nextAfter" not in await body(api, f"{PROJECTS}?limit=10", key)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=", "limit=x", "limit=-1", "limit=1&limit=1"])
async def test_a_limit_is_a_whole_number_given_once(api: Api, query: str) -> None:
    response = await api.ask(f"{PROJECTS}?{query}", api.key(TENANT))
    assert response.status_code == 400
    message = "must be a whole number from 1 to 1000, given once"
    assert response.json()["error"] == {
        "code": "VALIDATION_ERROR",
        "message": f"limit: {message}",
        "details": [{"parameter": "limit", "message": message}],
    }


@pytest.mark.parametrize(
    "after",
    [
        "",
        "x",
        "%C3%A9",
        "1",
        f"1-{PROJECT.upper()}",
        f"-1-{PROJECT}",
        f"1-{PROJECT}%0A",
        f"1-{PROJECT}&after=1-{PROJECT}",
    ],
)
async def test_after_is_a_value_of_a_response(api: Api, after: str) -> None:
    response = await api.ask(f"{PROJECTS}?after={after}", api.key(TENANT))
    assert response.status_code == 400
    assert response.json()["error"]["details"] == [
        {"parameter": "after", "message": "must be the value of `nextAfter` in a response, given once"}
    ]


def test_the_latest_event_that_sets_a_detail_decides() -> None:
    given(
        event("project.created.v1", {"description": "old", "isDefault": True}, time=EARLY),
        event("project.updated.v1", {"description": "new", "llmContext": "c"}, time=LATE),
        event("project.created.v1", {"description": None, "isDefault": None}, time="2026-04-25T12:00:00Z"),
    ).when_folded_by(project_details.projection).then({"description": "new", "is_default": True, "llm_context": "c"})


# --- usage -----------------------------------------------------------------------------------------------------------


async def test_usage_has_the_documented_shape(runtime: Runtime, api: Api) -> None:
    append(
        runtime,
        event("plan.changed.v1", {"planLimit": 100}, time=EARLY),
        event("plan.changed.v1", {"planLimit": 500}, time=LATE),
        event("project.created.v1"),
        event("project.created.v1", {"slug": "other", "name": "Other"}, projectid=OTHER_PROJECT),
        *analyses("2026-04-30T23:59:59.999999Z", 4, "low"),
        *analyses("2026-05-01T00:00:00Z", 2, "high"),
        *analyses("2026-05-02T12:00:00+02:00", 1, "critical", projectid=OTHER_PROJECT),
        *analyses("2026-05-03T00:00:00Z", 1, projectid=OTHER_PROJECT),
        *analyses("2026-05-03T00:00:00Z", 1, "info", projectid=project_id(1)),
        *analyses("2026-05-03T00:00:00Z", 9, **FOREIGN),
    )
    drain_all(runtime)
    at(api, "2026-05-03T12:00:00")
    response = await api.ask(USAGE, api.key(TENANT))
    assert response.json() == {
        "success": True,
        "data": {
            "analysesThisMonth": 5,
            "planLimit": 500,
            "projectedEndOfMonth": 52,  # 5 / 3 days * 31 days = 51.67
            "daysRemaining": 28,
            "byProject": [
                {"projectId": OTHER_PROJECT, "projectName": "Other", "count": 2},
                {"projectId": PROJECT, "projectName": "Checkout", "count": 2},
            ],
            "bySeverity": {"critical": 1, "high": 2, "medium": 0, "low": 0, "info": 1},
            "dailyTrend": [
                {"date": "2026-04-30", "count": 4},
                {"date": "2026-05-01", "count": 2},
                {"date": "2026-05-02", "count": 1},
                {"date": "2026-05-03", "count": 2},
            ],
        },
    }
    model = Success[Usage].model_validate_json(response.content, strict=True)
    assert model.model_dump_json(by_alias=True).encode() == response.content


@pytest.mark.parametrize(
    ("now", "this_month", "projected", "remaining"),
    [
        ("2024-02-29T23:59:59.999999", 3, 3, 0),  # a leap day, the last microsecond of a month
        ("2024-03-01T00:00:00", 1, 31, 30),
        ("2024-02-02T00:00:00", 3, 44, 27),  # 3 / 2 * 29 = 43.5 is rounded up
        ("2024-02-04T00:00:00", 3, 22, 25),  # 3 / 4 * 29 = 21.75
        ("2023-02-28T23:59:59", 0, 0, 0),  # the same month of another year
    ],
)
async def test_the_clock_selects_the_month(
    runtime: Runtime, api: Api, now: str, this_month: int, projected: int, remaining: int
) -> None:
    append(runtime, *analyses("2024-02-29T23:59:59.999999Z", 3), *analyses("2024-03-01T00:00:00Z"))
    drain_all(runtime)
    at(api, now)
    usage = await api.data(USAGE, api.key(TENANT))
    shown = (usage["analysesThisMonth"], usage["projectedEndOfMonth"], usage["daysRemaining"])
    assert shown == (this_month, projected, remaining)
    assert usage["planLimit"] is None
    assert usage["byProject"] == []  # no event created the project


async def test_analyses_of_a_deleted_project_count_for_the_tenant(runtime: Runtime, api: Api) -> None:
    append(
        runtime,
        event("project.created.v1", time=EARLY),
        *analyses(LATE, 2, "high"),
        event("project.deleted.v1", time=LATE),
    )
    drain_all(runtime)
    at(api, LATE[:-1])
    usage = await api.data(USAGE, api.key(TENANT))
    assert usage["analysesThisMonth"] == usage["bySeverity"]["high"] == 2
    assert usage["byProject"] == []


async def test_a_tenant_without_events_has_used_nothing(api: Api) -> None:
    at(api, "2026-04-25T00:00:00")
    assert await api.data(USAGE, api.key("ten_nobody")) == {
        "analysesThisMonth": 0,
        "planLimit": None,
        "projectedEndOfMonth": 0,
        "daysRemaining": 5,
        "byProject": [],
        "bySeverity": dict.fromkeys(["critical", "high", "medium", "low", "info"], 0),
        "dailyTrend": [],
    }


def test_the_newest_months_are_kept_in_whatever_order_events_come() -> None:
    months = [f"2026-{month:02}-01T00:00:00Z" for month in range(1, 6)]
    counts = ",".join(f"[{2026 * 12 + month},[1,0,0,0,0,0]]" for month in (2, 3, 4))
    events = [made for month in months for made in analyses(month)]
    given(*events).when_folded_by(analysis_trend.projection).then({"by_month": f"[{counts}]", "total": 5})


def test_the_latest_plan_counts_also_if_it_is_unlimited() -> None:
    limited = event("plan.changed.v1", {"planLimit": 0}, time=EARLY)
    given(limited).when_folded_by(tenant.projection).then({"plan_limit": 0})
    unlimited = event("plan.changed.v1", {"planLimit": None}, time=LATE)
    given(limited, unlimited).when_folded_by(tenant.projection).then({"plan_limit": None})


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PROJECTS, USAGE])
async def test_the_checks_are_those_of_all_reads(api: Api, path: str) -> None:
    assert (await api.ask(path)).status_code == 401
    for kind, permissions, code in (
        (KeyKind.PUB, ["config:read"], "SECRET_KEY_REQUIRED"),
        (KeyKind.ORG, ["config:write"], "FORBIDDEN"),
    ):
        key = api.key(TENANT, PROJECT if kind is KeyKind.PUB else None, kind=kind, permissions=permissions)
        response = await api.ask(path, key)
        assert (response.status_code, response.json()["error"]["code"]) == (403, code)
    response = await api.ask(path, api.key(TENANT), X_Min_Position="0-1-0")
    assert response.status_code == 501


@pytest.mark.parametrize("path", [PROJECTS, USAGE])
async def test_while_a_rebuild_is_pending_the_response_is_503(
    runtime: Runtime, api: Api, writer: Engine, path: str
) -> None:
    append(runtime, event("project.created.v1"))
    drain_all(runtime)
    with writer.begin() as connection:
        connection.execute(update(projection_version).values(versions="project 1, tenant 1, activity 1"))
    response = await api.ask(path, api.key(TENANT))
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")

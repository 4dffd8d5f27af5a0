"""The two reads over HTTP on both databases: the order of checks, the answers against the oracle, the query plans."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql
from pydantic import BaseModel
from sqlalchemy import Engine, MetaData, Table, create_engine, text
from sqlalchemy import event as sa_event

from api_stub.auth import keys as stored_keys
from api_stub.auth.keys import KeyKind
from api_stub.operations import Health
from api_stub.routes import activity, stats
from api_stub.routes.activity import ActivityKey, ActivityResponse
from api_stub.routes.stats import StatsKey, StatsResponse
from event_stream.events.rfc3339 import format_time
from projections import schema
from projections.database.table_names import qualified
from tests.support.api_client import Api, assert_answers_equal
from tests.support.events import DAY_US, NOW_US, OTHER_PROJECT, PROJECT, TENANT, event, mixed
from tests.support.harness import append, drain_all
from tests.support.oracle import Oracle
from workers.runtime import Runtime

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
STATS = "/v1/config/projects/checkout-api/stats"
ACTIVITY = "/v1/config/monitoring/activity"
FOREIGN_PROJECT = "11111111-1111-4111-8111-111111111111"
NO_PROJECT = "99999999-9999-4999-8999-999999999999"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def api(writer: Engine, reader: Engine) -> Iterator[Api]:
    made = Api(writer, reader)
    yield made
    made.close()


@pytest.fixture
def statements(reader: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the API sends to the database from now on."""
    statements: list[str] = []
    sa_event.listen(reader, "before_cursor_execute", lambda _c, _cu, statement, *_: statements.append(statement))
    execute = psycopg.AsyncCursor.execute

    async def tell(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(query.decode())
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", tell)
    return statements


@pytest.fixture
def filled(runtime: Runtime) -> Runtime:
    """TENANT has two projects, another tenant has one."""
    append(
        runtime,
        event("project.created.v1"),
        event("project.created.v1", {"slug": "other"}, projectid=OTHER_PROJECT),
        event("project.created.v1", {"slug": "foreign"}, projectid=FOREIGN_PROJECT, tenantid="ten_foreign"),
        event("watchdog.evaluated.v1"),
        event("analysis.created.v1"),
        event("support_desk.bound.v1"),
    )
    drain_all(runtime)
    return runtime


async def problem(api: Api, path: str, key: str | None = None, **options: Any) -> tuple[int, str]:
    response = await api.ask(path, key, **options)
    found = response.json()
    assert found["success"] is False
    assert found["error"]["message"]
    assert (response.status_code == 400) == ("details" in found["error"])
    for detail in found["error"].get("details", []):
        assert set(detail) == {"parameter", "message"}
    assert (response.status_code == 401) == ("www-authenticate" in response.headers)
    assert (response.status_code == 405) == ("allow" in response.headers)
    assert (response.status_code == 503) == ("retry-after" in response.headers)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, found["error"]["code"]


async def test_stats_have_the_documented_shape(filled: Runtime, api: Api) -> None:
    response = await api.ask(STATS, api.key(TENANT, PROJECT))
    assert response.json() == {
        "success": True,
        "data": {
            "analysisCount": 1,
            "logSourceCount": 0,
            "repoCount": 0,
            "notificationChannelCount": 0,
            "supportDeskCount": 1,
            "watchdogEnabled": False,
            "dailyTrend": [{"date": format_time(NOW_US - 60_000_000)[:10], "count": 1}],
        },
    }
    # The model describes the response exactly.
    assert _sent_by(StatsResponse.model_validate_json(response.content, strict=True)) == response.content


async def test_activity_has_the_documented_shape(filled: Runtime, api: Api) -> None:
    response = await api.ask(ACTIVITY, api.key(TENANT, PROJECT))
    assert response.json() == {
        "success": True,
        "data": [
            {
                "timestamp": format_time(NOW_US - 60_000_000),
                "ruleId": "wdg_a1b2",
                "ruleName": "Checkout error spike",
                "passed": False,
                "alertFired": True,
                "suppressedReason": None,
                "severity": "high",
                "summary": "Error count is 4.1× the recent baseline",
            }
        ],
    }
    assert _sent_by(ActivityResponse.model_validate_json(response.content, strict=True)) == response.content


def _sent_by(answer: BaseModel) -> bytes:
    return answer.model_dump_json(by_alias=True).encode()


async def test_a_project_without_entries_has_an_empty_list(filled: Runtime, api: Api) -> None:
    assert await api.data(ACTIVITY, api.key(TENANT, OTHER_PROJECT)) == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_answers_of_every_project_equal_the_oracles(runtime: Runtime, api: Api, seed: int) -> None:
    oracle = Oracle()
    made = list(mixed(2500, seed=seed))
    for each in made:
        oracle.add(each)
    append(runtime, *made)
    drain_all(runtime)
    keys = {tenant: api.key(tenant) for tenant, _ in oracle.projects()}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.json()["data"]

    assert await assert_answers_equal(oracle, ask, lambda: api.now_us) > 50
    api.now_us += 3 * DAY_US
    assert await assert_answers_equal(oracle, ask, lambda: api.now_us, hours=240) > 50


# --- the table of checks, in its order -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/config/projects/", "/v1/config/projects/a/b/stats", STATS + "/", STATS + "%0A", "/x%00"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_not_found_whatever_the_key(api: Api, path: str, method: str) -> None:
    assert await problem(api, path, method=method) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", [STATS, ACTIVITY, "/healthz", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_a_wrong_method_names_the_right_ones(api: Api, path: str, method: str) -> None:
    assert await problem(api, path, method=method) == (405, "METHOD_NOT_ALLOWED")
    assert (await api.ask(path, method=method)).headers["allow"] == "GET, HEAD"


async def test_head_is_get_without_a_body(filled: Runtime, api: Api) -> None:
    key = api.key(TENANT, PROJECT)
    head, get = await api.ask(STATS, key, method="HEAD"), await api.ask(STATS, key)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "ss_secret_x",
        "Bearer x y",
        "Bearer ss_secret_",
        "Bearer ss_other_0123456789abcdef_" + "a" * 43,
        "Bearer ss_secret_0123456789abcdef_" + "a" * 43,
        "Bearer ss_secret_0123456789abcdef_" + "a" * 42,
        "Bearer " + "x" * 5000,
    ],
)
@pytest.mark.parametrize("path", [STATS, ACTIVITY])
async def test_a_malformed_or_unknown_key_is_unauthorized(api: Api, path: str, header: str) -> None:
    assert await problem(api, path, Authorization=header) == (401, "UNAUTHORIZED")
    assert (await api.ask(path)).headers["www-authenticate"] == "Bearer"
    assert await problem(api, path) == (401, "UNAUTHORIZED")


async def test_a_wrong_secret_or_kind_is_unauthorized_like_a_missing_key(filled: Runtime, api: Api) -> None:
    key = api.key(TENANT, PROJECT)
    for wrong in (key[:-1] + ("a" if key[-1] != "a" else "b"), key.replace("ss_secret", "ss_org")):
        assert await problem(api, STATS, wrong) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_may_be_in_any_case(filled: Runtime, api: Api, scheme: str) -> None:
    assert (await api.ask(STATS, Authorization=f"{scheme} {api.key(TENANT, PROJECT)}")).status_code == 200


async def test_revoked_comes_before_expired_before_kind_before_permission(api: Api) -> None:
    expired_public = api.key(TENANT, kind=KeyKind.PUB, permissions=[], expires_us=api.now_us)
    assert await problem(api, STATS, expired_public) == (401, "API_KEY_EXPIRED")
    with api.writer.begin() as connection:
        assert stored_keys.revoke(connection, expired_public.split("_")[2], api.now_us)
    assert await problem(api, STATS, expired_public) == (401, "API_KEY_REVOKED")
    assert await problem(api, STATS, api.key(TENANT, kind=KeyKind.PUB, permissions=[])) == (403, "SECRET_KEY_REQUIRED")
    assert await problem(api, STATS, api.key(TENANT, permissions=["config:write"])) == (403, "FORBIDDEN")
    not_yet = api.key(TENANT, expires_us=api.now_us + 1)
    assert await problem(api, STATS, not_yet) == (404, "NOT_FOUND")


async def test_parameters_are_checked_only_after_permissions(api: Api) -> None:
    key = api.key(TENANT, permissions=["analysis:read"])
    assert await problem(api, ACTIVITY + "?hours=x", key) == (403, "FORBIDDEN")
    assert await problem(api, "/v1/config/projects/NOT-A-SLUG/stats") == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("slug", ["A", "a_b", "x" * 101, "é", "%20", "a%0A", "a.b", "...", "{slug}"])
async def test_a_slug_has_a_fixed_alphabet(api: Api, slug: str) -> None:
    assert await problem(api, f"/v1/config/projects/{slug}/stats", api.key(TENANT)) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "query",
    [
        *("hours=", "hours", "hours=0", "hours=721", "hours=-1", "hours=+1", "hours=1.0", "hours=1e2", "hours=x"),
        *("hours=00001", "hours=%31%30%30%30%30", "hours=1&hours=1", "hours=1&hours=", "hours=1%20", "hours=%D9%A1"),
    ],
)
async def test_hours_is_a_whole_number_given_once(api: Api, query: str) -> None:
    assert await problem(api, f"{ACTIVITY}?{query}", api.key(TENANT, PROJECT)) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "query", ["", "?hours=1", "?hours=720", "?hours=0024", "?x=1&hours=24&Hours=no", "?hours=%32%34"]
)
async def test_hours_may_be_left_out_and_other_parameters_are_ignored(filled: Runtime, api: Api, query: str) -> None:
    assert len(await api.data(ACTIVITY + query, api.key(TENANT, PROJECT))) == 1


@pytest.mark.parametrize("path", [STATS, ACTIVITY])
@pytest.mark.parametrize("value", ["", "x", PROJECT.replace("-", ""), PROJECT + ","])
async def test_the_project_header_must_be_a_uuid(filled: Runtime, api: Api, path: str, value: str) -> None:
    for key in (api.key(TENANT), api.key(TENANT, PROJECT)):
        assert await problem(api, path, key, X_Project_Id=value) == (400, "VALIDATION_ERROR")


async def test_the_project_header_may_be_in_any_letter_case(filled: Runtime, api: Api) -> None:
    for key in (api.key(TENANT), api.key(TENANT, PROJECT)):
        assert len(await api.data(ACTIVITY, key, X_Project_Id=PROJECT.upper())) == 1
        assert (await api.data(STATS, key, X_Project_Id=PROJECT.upper()))["analysisCount"] == 1


async def test_an_organisation_key_must_name_the_project(filled: Runtime, api: Api) -> None:
    key = api.key(TENANT)
    assert await problem(api, ACTIVITY, key) == (400, "MISSING_PROJECT_ID")
    assert await problem(api, ACTIVITY + "?hours=x", key) == (400, "VALIDATION_ERROR")
    assert len(await api.data(ACTIVITY, key, X_Project_Id=PROJECT)) == 1
    assert await api.data(ACTIVITY, key, X_Project_Id=OTHER_PROJECT) == []
    assert (await api.data(STATS, key))["analysisCount"] == 1
    assert (await api.data(STATS, key, X_Project_Id=PROJECT))["analysisCount"] == 1


async def test_a_project_key_reads_no_other_project_of_its_tenant(filled: Runtime, api: Api) -> None:
    key = api.key(TENANT, PROJECT)
    assert await problem(api, "/v1/config/projects/other/stats", key) == (403, "WRONG_PROJECT")
    assert await problem(api, ACTIVITY, key, X_Project_Id=OTHER_PROJECT) == (403, "WRONG_PROJECT")
    assert await problem(api, STATS, key, X_Project_Id=OTHER_PROJECT) == (403, "WRONG_PROJECT")
    assert await problem(api, STATS, api.key(TENANT), X_Project_Id=OTHER_PROJECT) == (403, "WRONG_PROJECT")
    assert len(await api.data(ACTIVITY, key, X_Project_Id=PROJECT)) == 1


async def test_a_project_of_another_tenant_looks_like_a_project_that_does_not_exist(filled: Runtime, api: Api) -> None:
    for key in (api.key(TENANT), api.key(TENANT, PROJECT)):
        bodies = set()
        for slug, project in (("foreign", FOREIGN_PROJECT), ("never-was", NO_PROJECT)):
            assert await problem(api, f"/v1/config/projects/{slug}/stats", key) == (404, "NOT_FOUND")
            assert await problem(api, ACTIVITY, key, X_Project_Id=project) == (404, "NOT_FOUND")
            bodies.add((await api.ask(f"/v1/config/projects/{slug}/stats", key)).content)
            bodies.add((await api.ask(ACTIVITY, key, X_Project_Id=project)).content)
        assert len(bodies) == 1


@pytest.mark.parametrize("projects", [(PROJECT,) * 3, (PROJECT, OTHER_PROJECT, FOREIGN_PROJECT)])
async def test_tenants_with_the_same_slug_or_project_id_each_read_their_own(
    runtime: Runtime, api: Api, projects: tuple[str, str, str]
) -> None:
    tenants = ("ten_a", "ten_b", "ten_c")
    for number, (tenant, project) in enumerate(zip(tenants, projects, strict=True)):
        own = {"tenantid": tenant, "projectid": project, "time": format_time(NOW_US - 60_000_000 + number)}
        append(runtime, event("project.created.v1", **own))
        for each in range(number + 1):
            append(runtime, event(**own), event("watchdog.evaluated.v1", {"ruleId": tenant}, **own))
            append(runtime, event("support_desk.bound.v1", {"bindingId": f"desk_{each}"}, **own))
    drain_all(runtime)
    for number, (tenant, project) in enumerate(zip(tenants, projects, strict=True)):
        stats = await api.data(STATS, api.key(tenant))
        assert (stats["analysisCount"], stats["supportDeskCount"]) == (number + 1, number + 1)
        entries = await api.data(ACTIVITY, api.key(tenant, project))
        assert [each["ruleId"] for each in entries] == [tenant] * (number + 1)


async def test_a_project_is_visible_from_its_creation_to_its_deletion(runtime: Runtime, api: Api) -> None:
    key = api.key(TENANT, PROJECT)
    append(runtime, event("watchdog.evaluated.v1"), event())
    drain_all(runtime)
    assert await problem(api, ACTIVITY, key) == (404, "NOT_FOUND")
    assert await problem(api, STATS, key) == (404, "NOT_FOUND")
    append(runtime, event("project.created.v1", time=format_time(NOW_US - 9_000_000)))
    drain_all(runtime)
    assert len(await api.data(ACTIVITY, key)) == 1
    assert (await api.data(STATS, key))["analysisCount"] == 1
    append(runtime, event("project.deleted.v1", time=format_time(NOW_US - 8_000_000)))
    drain_all(runtime)
    assert await problem(api, ACTIVITY, key) == (404, "NOT_FOUND")
    assert await problem(api, STATS, key) == (404, "NOT_FOUND")


async def test_a_slug_belongs_to_the_project_that_took_it_last(runtime: Runtime, api: Api) -> None:
    first = event("project.created.v1", time=format_time(NOW_US - 9_000_000))
    second = event("project.created.v1", projectid=OTHER_PROJECT, time=format_time(NOW_US - 8_000_000))
    append(runtime, second, first, event(projectid=OTHER_PROJECT))
    drain_all(runtime)
    assert (await api.data(STATS, api.key(TENANT)))["analysisCount"] == 1
    assert await problem(api, STATS, api.key(TENANT, PROJECT)) == (403, "WRONG_PROJECT")
    append(runtime, event("project.deleted.v1", projectid=OTHER_PROJECT, time=format_time(NOW_US - 7_000_000)))
    drain_all(runtime)
    assert (await api.data(STATS, api.key(TENANT, PROJECT)))["analysisCount"] == 0


async def test_freshness_responds_not_implemented_after_the_checks(filled: Runtime, api: Api) -> None:
    key = api.key(TENANT, PROJECT)
    for path in (STATS, ACTIVITY):
        assert await problem(api, path, key, X_Min_Position="0-1-0") == (501, "NOT_IMPLEMENTED")
        assert await problem(api, path, X_Min_Position="0-1-0") == (401, "UNAUTHORIZED")
    assert await problem(api, ACTIVITY + "?hours=0", key, X_Min_Position="0-1-0") == (400, "VALIDATION_ERROR")


# --- windows ---------------------------------------------------------------------------------------------------------


async def test_the_trend_is_the_last_thirty_days_today_included(runtime: Runtime, api: Api) -> None:
    midnight = NOW_US // DAY_US * DAY_US
    inside = [midnight - 29 * DAY_US, midnight - 1, midnight]
    outside = [midnight - 29 * DAY_US - 1, midnight - 30 * DAY_US]
    append(runtime, event("project.created.v1"), *(event(time=format_time(at)) for at in inside + outside))
    drain_all(runtime)
    key = api.key(TENANT, PROJECT)
    api.now_us = midnight
    assert (await api.data(STATS, key))["analysisCount"] == 3
    api.now_us = midnight + DAY_US - 1
    assert (await api.data(STATS, key))["analysisCount"] == 3
    api.now_us = midnight + DAY_US
    found = await api.data(STATS, key)
    assert found["analysisCount"] == 2
    assert found["dailyTrend"] == [
        {"date": format_time(midnight - 1)[:10], "count": 1},
        {"date": format_time(midnight)[:10], "count": 1},
    ]
    api.now_us = midnight + 40 * DAY_US
    assert (await api.data(STATS, key))["dailyTrend"] == []


async def test_an_entry_exactly_at_the_start_of_the_window_is_left_out(runtime: Runtime, api: Api) -> None:
    at = NOW_US - 3_600_000_000
    append(
        runtime,
        event("project.created.v1"),
        event("watchdog.evaluated.v1", time=format_time(at)),
        event("watchdog.evaluated.v1", time=format_time(at + 1)),
    )
    drain_all(runtime)
    assert [each["timestamp"] for each in await api.data(ACTIVITY + "?hours=1", api.key(TENANT, PROJECT))] == [
        format_time(at + 1)
    ]


async def test_at_most_a_hundred_entries_newest_first_ties_by_id_descending(runtime: Runtime, api: Api) -> None:
    at = format_time(NOW_US - 1_000_000)
    made = [
        event("watchdog.evaluated.v1", {"ruleId": f"r{n}"}, id=f"{n:08x}-0000-4000-8000-000000000000", time=at)
        for n in range(130)
    ]
    append(runtime, event("project.created.v1"), *made)
    drain_all(runtime)
    found = await api.data(ACTIVITY, api.key(TENANT, PROJECT))
    assert [each["ruleId"] for each in found] == [f"r{n}" for n in range(129, 29, -1)]


# --- keys over time, outages -----------------------------------------------------------------------------------------


async def test_a_found_key_is_trusted_for_its_cache_time_and_no_longer(
    filled: Runtime, writer: Engine, reader: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("api_stub.auth.checks.time", SimpleNamespace(monotonic=lambda: now[0]))
    api = Api(writer, reader, key_cache_s=0.3)
    key = api.key(TENANT, PROJECT)
    assert (await api.ask(STATS, key)).status_code == 200
    with writer.begin() as connection:
        stored_keys.revoke(connection, key.split("_")[2], api.now_us)
    now[0] = 0.29
    assert (await api.ask(STATS, key)).status_code == 200
    now[0] = 0.31
    assert await problem(api, STATS, key) == (401, "API_KEY_REVOKED")
    api.close()


async def test_a_cached_key_still_expires_on_time(filled: Runtime, writer: Engine, reader: Engine) -> None:
    api = Api(writer, reader, key_cache_s=60)
    key = api.key(TENANT, PROJECT, expires_us=NOW_US + 1000)
    assert (await api.ask(STATS, key)).status_code == 200
    api.now_us = NOW_US + 1000
    assert await problem(api, STATS, key) == (401, "API_KEY_EXPIRED")
    api.close()


async def test_an_unreachable_database_responds_503_and_reads_recover(
    filled: Runtime, writer: Engine, reader: Engine
) -> None:
    api = Api(writer, reader, key_cache_s=60)
    key = api.key(TENANT, PROJECT)
    away = Api(writer, create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert await problem(away, STATS, key) == (503, "UNAVAILABLE")
    assert await problem(away, ACTIVITY, key) == (503, "UNAVAILABLE")
    assert (await api.ask(STATS, key)).status_code == 200
    assert (await away.ask("/readyz")).status_code == 503
    assert (await away.ask("/healthz")).status_code == 200
    for each in (api, away):
        each.close()


async def test_concurrent_requests_share_queries_and_get_their_own_responses(
    filled: Runtime, api: Api, statements: list[str]
) -> None:
    keys = {PROJECT: api.key(TENANT, PROJECT), OTHER_PROJECT: api.key(TENANT, OTHER_PROJECT)}
    counts: dict[str, list[int]] = {PROJECT: [], OTHER_PROJECT: []}

    async def ask(project: str) -> None:
        counts[project].append(len(await api.data(ACTIVITY, keys[project])))

    async with anyio.create_task_group() as group:
        for _ in range(25):
            for project in keys:
                group.start_soon(ask, project)
    assert counts == {PROJECT: [1] * 25, OTHER_PROJECT: [0] * 25}
    assert 2 <= len(statements) < 30


# --- one statement, a constant number of rows ------------------------------------------------------------------------


async def test_each_response_is_one_statement(
    filled: Runtime, writer: Engine, reader: Engine, statements: list[str]
) -> None:
    api = Api(writer, reader, key_cache_s=60)
    key = api.key(TENANT, PROJECT)
    await api.ask(STATS, key)
    statements.clear()
    await api.ask(STATS, key)
    assert len(statements) == 1
    await api.ask(ACTIVITY, key)
    assert len(statements) == 2
    api.close()


@pytest.mark.parametrize("events", [50, 3000])
async def test_query_plans_use_keys_only(runtime: Runtime, writer: Engine, reader: Engine, events: int) -> None:
    append(runtime, *mixed(events, tenants=3, projects=40))
    drain_all(runtime)
    with writer.begin() as connection:  # a plan for small tables may still be in use after they have grown
        connection.exec_driver_sql("ANALYZE")
    plans: list[str] = []

    def explain(_conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if reader.dialect.name == "postgresql":
            # Prepared, like the API's statements, because prepared statements have their own plans.
            names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
            numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
            values = ", ".join(sql.Literal(parameters[name]).as_string(cursor) for name in names)
            cursor.execute(f"PREPARE explained AS {numbered}")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS OFF) EXECUTE explained({values})")
            plans.append("\n".join(row[0] for row in cursor.fetchall()))
            cursor.execute("DEALLOCATE explained")
        else:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append("\n".join(" ".join(map(str, row)) for row in cursor.fetchall()))

    sa_event.listen(reader, "before_cursor_execute", explain)
    with reader.connect() as connection:
        stats.lookup.read(connection, [StatsKey("ten_0", "project-1")])
        activity.lookup.read(connection, [ActivityKey("ten_0", PROJECT, 0)])
    assert len(plans) == 2
    for plan in plans:
        if reader.dialect.name == "postgresql":
            assert "Seq Scan" not in plan
            assert "Sort" not in plan
            assert "Index" in plan
        else:
            assert "SCAN" not in plan.replace("SCAN each_key", "").replace("SCAN newest", "")
            assert "SEARCH" in plan
    assert "project_by_slug" in plans[0]


async def test_health_endpoints_need_no_key_and_name_the_failing_part(runtime: Runtime, api: Api) -> None:
    for path in ("/healthz", "/readyz", "/healthz/projector"):
        response = await api.ask(path)
        assert (response.status_code, response.json()["status"]) == (200, "ok")
    api.health = Health(warnings=["partition 2 lost 1 unread entry"])
    response = await api.ask("/healthz/projector")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "degraded", "problems": ["partition 2 lost 1 unread entry"]},
    )
    api.health = Health(["partition 3 is stalled"], ["partition 2 lost 1 unread entry"])
    response = await api.ask("/healthz/projector")
    assert (response.status_code, response.json()) == (
        503,
        {"status": "failing", "problems": ["partition 3 is stalled", "partition 2 lost 1 unread entry"]},
    )
    versions = qualified(api.writer.dialect, Table(schema.VERSION_TABLE, MetaData()))
    with api.writer.begin() as connection:
        connection.execute(text(f"DELETE FROM {versions}"))
    response = await api.ask("/readyz")
    assert response.status_code == 503
    assert "projector migrate" in response.json()["problems"][0]
    with api.writer.begin() as connection:
        connection.execute(text(f"INSERT INTO {versions} VALUES ('9999')"))
    assert (await api.ask("/readyz")).status_code == 200
    with api.writer.begin() as connection:
        connection.execute(text(f"UPDATE {versions} SET version_num = 'e3a1c0ffee42'"))
    response = await api.ask("/readyz")
    assert response.status_code == 503
    assert "belongs to another application" in response.json()["problems"][0]


async def test_the_document_describes_exactly_the_routes(api: Api) -> None:
    document = (await api.ask("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {route.path for route in api.routes}

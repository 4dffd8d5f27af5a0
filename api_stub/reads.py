"""The two reads. Each is one statement that goes through keys and touches a constant number of rows.

docs/reference/api.md#stats and docs/reference/api.md#activity say what they answer.

A statement answers any number of asks at once, each ask touching its own few rows, all from one snapshot.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache, lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, LargeBinary, Select, Text, cast, func, select, type_coerce

from api_stub.lookup import Lookup
from projections.activity import ENTRIES_KEPT
from projections.activity import table as activity
from projections.analysis_trend import DAY_US, by_day_from_json
from projections.analysis_trend import table as analysis_trend
from projections.bulk import key_rows
from projections.project import table as project
from projections.store import Row
from projections.tenant import table as tenant
from projections.versions import have_rows
from projections.versions import table as active_version

WINDOW_DAYS = 30
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class StatsAsk(NamedTuple):
    """Which project's stats: the one that answers to this slug in this tenant."""

    tenant_id: str
    slug: str


class StatsRow(NamedTuple):
    """What the read models hold of a project's stats; `by_day` counts analyses by days since 1970 UTC, ascending."""

    project_id: str
    log_source_count: int
    repo_count: int
    notification_channel_count: int
    support_desk_count: int
    watchdog_enabled: bool
    by_day: Mapping[int, int]

    def trend(self, now_us: int) -> list[tuple[str, int]]:
        """Return (date, count) for each day with analyses among the last 30 UTC days, today included, ascending."""
        today = now_us // DAY_US
        days = range(today - WINDOW_DAYS + 1, today + 1)
        return [(_date(day), count) for day, count in self.by_day.items() if day in days]


@lru_cache(maxsize=256)
def _date(day: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + day).isoformat()


class NotFilled:
    """The answer while a rebuild has not given the tenant rows in all read models that one needs."""


NOT_FILLED = NotFilled()
_STATS_READS = ("analysis_trend", "project", "tenant")
_ACTIVITY_READS = ("activity", "project")


class ActivityAsk(NamedTuple):
    """Which project's activity, and from when on (exclusive), in microseconds since 1970 UTC."""

    tenant_id: str
    project_id: str
    after_us: int


def _stats_answers(rows: Iterable[Row]) -> dict[StatsAsk, StatsRow | NotFilled]:
    found: dict[StatsAsk, StatsRow | NotFilled] = {}
    for tenant_id, slug, versions, project_id, log_sources, repos, channels, desks, watchdog, by_day in rows:
        ask = StatsAsk(tenant_id, slug)
        if _lack_rows(versions, _STATS_READS, project_id):
            found[ask] = NOT_FILLED
        elif project_id is not None:
            counts = by_day_from_json(by_day or "[]")
            found[ask] = StatsRow(project_id, log_sources, repos, channels, desks, watchdog, counts)
    return found


def _activity_answers(rows: Iterable[Row]) -> dict[ActivityAsk, bytes | NotFilled]:
    found: dict[ActivityAsk, bytes | NotFilled] = {}
    for *key, versions, exists, entries in rows:
        if _lack_rows(versions, _ACTIVITY_READS, exists):
            found[ActivityAsk(*key)] = NOT_FILLED
        elif exists:
            found[ActivityAsk(*key)] = entries or b""
    return found


def _lack_rows(versions: str | None, read_models: tuple[str, ...], project: object) -> bool:
    """Return whether read models of a tenant are not filled; of a tenant that has no events nothing is to be filled."""
    return not have_rows(versions, read_models) and (versions, project) != (None, None)


@cache
def _stats_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [project.c.tenant_id, project.c.slug])
    tenant_id, slug = keys.c
    holder = project.alias("holder")
    latest_taker = (
        select(holder.c.project_id)
        .where(holder.c.tenant_id == tenant_id, holder.c.slug == slug, holder.c.present)
        .order_by(holder.c.slug_time_us.desc(), holder.c.slug_event_id.desc())
        .limit(1)
        .correlate(keys)
        .scalar_subquery()
    )
    return (
        select(
            tenant_id,
            slug,
            active_version.c.versions,
            project.c.project_id,
            project.c.log_source_count,
            project.c.repo_count,
            project.c.notification_channel_count,
            func.coalesce(tenant.c.support_desk_count, 0),
            project.c.watchdog_enabled,
            analysis_trend.c.by_day,
        )
        .select_from(keys)
        .outerjoin(active_version, active_version.c.tenant_id == tenant_id)
        # Outer, so that no planner begins with the projects, whatever it knows of their number.
        .outerjoin(project, (project.c.tenant_id == tenant_id) & (project.c.project_id == latest_taker))
        .outerjoin(tenant, tenant.c.tenant_id == tenant_id)
        .outerjoin(
            analysis_trend,
            (analysis_trend.c.tenant_id == tenant_id) & (analysis_trend.c.project_id == project.c.project_id),
        )
    )


@cache
def _activity_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [activity.c.tenant_id, activity.c.project_id, activity.c.time_us])
    tenant_id, project_id, after_us = keys.c
    newest = (
        select(activity.c.entry)
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
        joined = func.convert_to(func.string_agg(newest.c.entry, type_coerce(",", Text)), "UTF8")
    else:
        joined = cast(func.group_concat(newest.c.entry, ","), LargeBinary)
    return (
        select(
            tenant_id,
            project_id,
            after_us,
            active_version.c.versions,
            project.c.present,
            select(joined).select_from(newest).correlate(keys).scalar_subquery(),
        )
        .select_from(keys)
        .outerjoin(active_version, active_version.c.tenant_id == tenant_id)
        .outerjoin(
            project,
            (project.c.tenant_id == tenant_id) & (project.c.project_id == project_id) & project.c.present,
        )
    )


stats_lookup = Lookup(_stats_statement, _stats_answers)
"""The stats of each ask whose slug an existing project of its tenant holds."""

activity_lookup = Lookup(_activity_statement, _activity_answers)
"""The newest entries of each ask whose project exists in its tenant: UTF-8 JSON with commas between, newest first."""

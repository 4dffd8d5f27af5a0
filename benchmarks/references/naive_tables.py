"""Tables and statements of the hand-written references. They assume that no event is repeated."""

from datetime import UTC, datetime
from typing import Any

from event_stream.events.rfc3339 import parse_time

Statement = tuple[str, tuple[Any, ...]]

SCHEMA = """
CREATE TABLE naive_project
    (tenant text, project text, slug text, name text, watchdog boolean, PRIMARY KEY (tenant, project));
CREATE TABLE naive_member (tenant text, project text, kind text, id text, PRIMARY KEY (tenant, project, kind, id));
CREATE TABLE naive_trend (tenant text, project text, day date, analyses bigint, PRIMARY KEY (tenant, project, day));
CREATE TABLE naive_activity (tenant text, project text, at timestamptz, id text, entry jsonb, PRIMARY KEY (id));
CREATE INDEX ON naive_activity (tenant, project, at DESC);
"""
_MEMBERS = {
    "log_source": "logSourceId",
    "repo": "repoId",
    "notification_channel": "channelId",
    "support_desk": "bindingId",
    "plan": "planLimit",
}
PROJECT = """
INSERT INTO naive_project (tenant, project, slug, name) VALUES (%s, %s, %s, %s) ON CONFLICT (tenant, project)
DO UPDATE SET slug = coalesce(excluded.slug, naive_project.slug), name = coalesce(excluded.name, naive_project.name)
"""
DELETED = "DELETE FROM naive_project WHERE tenant = %s AND project = %s"
WATCHDOG = """
INSERT INTO naive_project (tenant, project, watchdog) VALUES (%s, %s, %s)
ON CONFLICT (tenant, project) DO UPDATE SET watchdog = excluded.watchdog
"""
ADDED = "INSERT INTO naive_member VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
REMOVED = "DELETE FROM naive_member WHERE tenant = %s AND project = %s AND kind = %s AND id = %s"
TREND = """
INSERT INTO naive_trend VALUES (%s, %s, %s, 1)
ON CONFLICT (tenant, project, day) DO UPDATE SET analyses = naive_trend.analyses + 1
"""
ACTIVITY = "INSERT INTO naive_activity VALUES (%s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING"


def statement(event: dict[str, Any], dump: Any) -> Statement:
    """Return the statement that applies an event, and its values."""
    kind, _, verb = event["type"].removesuffix(".v1").partition(".")
    data, project = event["data"], (event["tenantid"], event.get("projectid", ""))
    match kind, verb:
        case "watchdog", "evaluated":
            return ACTIVITY, (*project, event["time"], event["id"], dump(data))
        case "analysis", _:
            return TREND, (*project, datetime.fromtimestamp(parse_time(event["time"]) / 1e6, UTC).date())
        case "watchdog", _:
            return WATCHDOG, (*project, data["enabled"])
        case "project", "deleted":
            return DELETED, project
        case "project", _:
            return PROJECT, (*project, data.get("slug"), data.get("name"))
        case _:
            added = verb in ("added", "connected", "bound", "changed")
            return ADDED if added else REMOVED, (*project, kind, str(data[_MEMBERS[kind]]))

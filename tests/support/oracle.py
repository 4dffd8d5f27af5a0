"""The oracle: a second, simple implementation of the reads, written from docs/reference/events.md alone.

It keeps all events in a list and scans them for every answer. It never imports the projections.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha1
from math import floor
from typing import Any
from uuid import UUID

_KEY_NAMESPACE = bytes.fromhex("eea4746ff73d48e888dd26b6ef56f994")


def event_key(event: dict[str, Any]) -> str:
    """Return the event key as docs/reference/events.md#identity defines it."""
    if re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", event["id"].lower(), re.ASCII):
        return str(event["id"]).lower()
    hashed = sha1(_KEY_NAMESPACE + f"{event['source']} {event['id']}".encode())
    return str(UUID(bytes=hashed.digest()[:16], version=5))


def identity(event: dict[str, Any]) -> tuple[str, str]:
    """Return (tenant, event key)."""
    return (event["tenantid"], event_key(event))


class Oracle:
    """Answers from the set of accepted events; `add` them in any order, each once."""

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self.of_tenant: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.of_project: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for event in events:
            self.add(event)

    def add(self, event: dict[str, Any]) -> None:
        if event["type"].startswith(("support_desk.", "plan.")):
            self.of_tenant[event["tenantid"]].append(event)
        else:
            self.of_project[event["tenantid"], event["projectid"].lower()].append(event)

    def projects(self) -> list[tuple[str, str]]:
        """Return (tenant, project id) of every project that any event names."""
        return sorted(self.of_project)

    def exists(self, tenant: str, project: str) -> bool:
        facts = [
            e for e in self.of_project[tenant, project] if e["type"] in ("project.created.v1", "project.deleted.v1")
        ]
        return bool(facts) and max(facts, key=_when)["type"] == "project.created.v1"

    def slugs(self, tenant: str) -> dict[str, str]:
        """Return the existing project that each slug belongs to."""
        holders: defaultdict[str, list[tuple[tuple[datetime, str], str]]] = defaultdict(list)
        for owner, project in self.projects():
            if owner == tenant and self.exists(tenant, project):
                taken = [e for e in self.of_project[tenant, project] if e["data"].get("slug") is not None]
                if taken:
                    latest = max(taken, key=_when)
                    holders[latest["data"]["slug"]].append((_when(latest), project))
        return {slug: max(takers)[1] for slug, takers in holders.items()}

    def stats(self, tenant: str, project: str, now: datetime) -> dict[str, Any]:
        events = self.of_project[tenant, project]
        first = now.date() - timedelta(days=29)
        days = Counter(_when(e)[0].date() for e in events if e["type"] == "analysis.created.v1")
        trend = [
            {"date": day.isoformat(), "count": count}
            for day, count in sorted(days.items())
            if first <= day <= now.date()
        ]
        toggles = [e for e in events if e["type"] == "watchdog.toggled.v1"]
        return {
            "analysisCount": sum(day["count"] for day in trend),
            "logSourceCount": _present(events, "log_source.added.v1", "log_source.removed.v1", "logSourceId"),
            "repoCount": _present(events, "repo.connected.v1", "repo.disconnected.v1", "repoId"),
            "notificationChannelCount": _present(
                events, "notification_channel.added.v1", "notification_channel.removed.v1", "channelId"
            ),
            "supportDeskCount": _present(
                self.of_tenant[tenant], "support_desk.bound.v1", "support_desk.unbound.v1", "bindingId"
            ),
            "watchdogEnabled": bool(toggles) and max(toggles, key=_when)["data"]["enabled"],
            "dailyTrend": trend,
        }

    def list_projects(self, tenant: str, _now: datetime) -> list[dict[str, Any]]:
        listed = []
        for owner, project in self.projects():
            if owner == tenant and self.exists(tenant, project):
                events = self.of_project[tenant, project]
                created = [e for e in events if e["type"] == "project.created.v1"]
                changed = [e for e in events if e["type"] in ("project.created.v1", "project.updated.v1")]
                created_at = max(_when(e)[0] for e in created)
                summary = {
                    "id": project,
                    **{name: _latest(changed, name) for name in ("name", "slug", "description", "llmContext")},
                    "isDefault": _latest(created, "isDefault") or False,
                    "createdAt": _shown(created_at),
                    "updatedAt": _shown(max(_when(e)[0] for e in changed)),
                    "analysisCount": sum(e["type"] == "analysis.created.v1" for e in events),
                    "logSourceCount": _present(events, "log_source.added.v1", "log_source.removed.v1", "logSourceId"),
                }
                listed.append((created_at, project, summary))
        return [summary for *_, summary in sorted(listed, key=lambda each: each[:2])]

    def usage(self, tenant: str, now: datetime) -> dict[str, Any]:
        analyses = [
            (_when(e)[0], project, e["data"].get("severity"))
            for owner, project in self.projects()
            if owner == tenant
            for e in self.of_project[tenant, project]
            if e["type"] == "analysis.created.v1"
        ]
        this_month = [each for each in analyses if (each[0].year, each[0].month) == (now.year, now.month)]
        by_project = Counter(project for _, project, _ in this_month if self.exists(tenant, project))
        names = {each["id"]: each["name"] for each in self.list_projects(tenant, now)}
        plans = [e for e in self.of_tenant[tenant] if e["type"] == "plan.changed.v1"]
        first_of_next = (now.replace(day=1) + timedelta(days=31)).replace(day=1)
        days = (first_of_next - timedelta(days=1)).day
        first = now.date() - timedelta(days=29)
        by_day = Counter(when.date() for when, *_ in analyses if first <= when.date() <= now.date())
        return {
            "analysesThisMonth": len(this_month),
            "planLimit": max(plans, key=_when)["data"]["planLimit"] if plans else None,
            "projectedEndOfMonth": floor(Fraction(len(this_month) * days, now.day) + Fraction(1, 2)),
            "daysRemaining": days - now.day,
            "byProject": [
                {"projectId": project, "projectName": names[project], "count": count}
                for project, count in sorted(by_project.items(), key=lambda each: (-each[1], each[0]))
            ],
            "bySeverity": {
                severity: sum(each == severity for *_, each in this_month)
                for severity in ("critical", "high", "medium", "low", "info")
            },
            "dailyTrend": [{"date": day.isoformat(), "count": count} for day, count in sorted(by_day.items())],
        }

    def activity(self, tenant: str, project: str, now: datetime, hours: int = 24) -> list[dict[str, Any]]:
        found = [e for e in self.of_project[tenant, project] if e["type"] == "watchdog.evaluated.v1"]
        newest = sorted(found, key=_when, reverse=True)[:100]
        names = ("ruleId", "ruleName", "passed", "alertFired", "severity")
        return [
            {
                "timestamp": _shown(_when(e)[0]),
                **{name: e["data"][name] for name in names},
                "suppressedReason": e["data"].get("suppressedReason"),
                "summary": e["data"].get("summary") or "",
            }
            for e in newest
            if _when(e)[0] > now - timedelta(hours=hours)
        ]


def _when(event: dict[str, Any]) -> tuple[datetime, str]:
    text = event["time"].upper()
    leap_second = text[16:19] == ":60"
    moment = datetime.fromisoformat(text.replace(":60", ":59", 1) if leap_second else text)
    return (moment.astimezone(UTC) + timedelta(seconds=leap_second), event_key(event))


def _latest(events: list[dict[str, Any]], member: str) -> Any:
    """Return the value of a member in the latest event that sets it."""
    setting = [e for e in events if e["data"].get(member) is not None]
    return max(setting, key=_when)["data"][member] if setting else None


def _present(events: list[dict[str, Any]], added: str, removed: str, member: str) -> int:
    latest: dict[str, dict[str, Any]] = {}
    for event in sorted((e for e in events if e["type"] in (added, removed)), key=_when):
        latest[event["data"][member]] = event
    return sum(event["type"] == added for event in latest.values())


def _shown(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"

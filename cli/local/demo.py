"""The events of the demo tenants: 30 days of history, identical on every run, and live traffic."""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from event_stream.events.rfc3339 import format_time

HISTORY_DAYS = 30
DAY_US = 86_400_000_000
_CREATED_AT = "2026-01-01T00:00:00Z"
_RULES = ("Checkout error spike", "Latency above baseline", "Log volume dropped")


@dataclass(frozen=True)
class DemoTenant:
    """A tenant of the demo: its projects, as slug and name, and how many evaluations each has per day."""

    id: str
    projects: Mapping[str, str]
    evaluations_per_day: int = 24

    def project_id(self, slug: str) -> str:
        """Return the id of a project."""
        return self._uuid(slug)

    def history(self, now_us: int) -> Iterator[dict[str, Any]]:
        """Yield the tenant's configuration, and its events of the 30 days up to `now_us`."""
        yield self._event("support_desk.bound.v1", _CREATED_AT, None, "desk", bindingId="desk_1")
        yield self._event("plan.changed.v1", _CREATED_AT, None, "plan", planLimit=1000)
        today = now_us // DAY_US
        for slug, name in self.projects.items():
            yield from self._configuration(slug, name)
            for day in range(today - HISTORY_DAYS + 1, today + 1):
                yield from (event for event in self._events_of_day(slug, day) if event["time"] <= format_time(now_us))

    def live_event(self, rng: random.Random) -> dict[str, Any]:
        """Return one event with the current time."""
        slug, now = rng.choice(list(self.projects)), format_time(time.time_ns() // 1000)
        is_analysis = rng.random() < 0.3
        return (
            self._analysis(slug, now, str(uuid4())) if is_analysis else self._evaluation(slug, now, str(uuid4()), rng)
        )

    def _configuration(self, slug: str, name: str) -> Iterator[dict[str, Any]]:
        is_default = slug == next(iter(self.projects))
        created = {"slug": slug, "name": name, "isDefault": is_default}
        yield self._event("project.created.v1", _CREATED_AT, slug, "created", **created)
        yield self._event("watchdog.toggled.v1", _CREATED_AT, slug, "watchdog", enabled=True)
        for number in (1, 2):
            yield self._event("log_source.added.v1", _CREATED_AT, slug, f"log/{number}", logSourceId=f"log_{number}")
        yield self._event("repo.connected.v1", _CREATED_AT, slug, "repo", repoId="repo_1")
        for number in (1, 2, 3):
            channel = {"channelId": f"chn_{number}"}
            yield self._event("notification_channel.added.v1", _CREATED_AT, slug, f"channel/{number}", **channel)

    def _events_of_day(self, slug: str, day: int) -> Iterator[dict[str, Any]]:
        rng = random.Random(f"{self.id}/{slug}/{day}")  # noqa: S311 (a demo, no secret)
        for number in range(rng.randint(0, 6)):
            at = format_time(day * DAY_US + rng.randrange(86_400) * 1_000_000)
            yield self._analysis(slug, at, self._uuid(f"{slug}/{day}/analysis/{number}"))
        interval_s = 86_400 // self.evaluations_per_day
        for number in range(self.evaluations_per_day):
            at = format_time(day * DAY_US + (number * interval_s + rng.randrange(60)) * 1_000_000)
            yield self._evaluation(slug, at, self._uuid(f"{slug}/{day}/evaluation/{number}"), rng)

    def _analysis(self, slug: str, at: str, id_: str) -> dict[str, Any]:
        severity = ("critical", "high", "medium", "low", "info")[int(id_[:2], 16) % 5]
        data = {"analysisId": f"ana_{id_[:8]}", "severity": severity, "trigger": "api"}
        return self._envelope("analysis.created.v1", at, slug, id_, data)

    def _evaluation(self, slug: str, at: str, id_: str, rng: random.Random) -> dict[str, Any]:
        rule = rng.randrange(len(_RULES))
        failed = rng.random() < 0.15
        suppressed = rng.choice([None, "cooldown", "daily_cap", "dedup"]) if failed else None
        data = {
            "ruleId": f"wdg_{rule + 1}",
            "ruleName": _RULES[rule],
            "passed": not failed,
            "alertFired": failed and suppressed is None,
            "suppressedReason": suppressed,
            "severity": rng.choice(["critical", "high", "medium"]) if failed else "low",
            "summary": f"{rng.uniform(2, 9):.1f}× the recent baseline" if failed else "",
        }
        return self._envelope("watchdog.evaluated.v1", at, slug, id_, data)

    def _event(self, type_: str, at: str, slug: str | None, name: str, /, **data: Any) -> dict[str, Any]:
        return self._envelope(type_, at, slug, self._uuid(f"{slug}/{name}"), data)

    def _envelope(self, type_: str, at: str, slug: str | None, id_: str, data: dict[str, Any]) -> dict[str, Any]:
        event = {"specversion": "1.0", "id": id_, "source": "/demo", "type": type_, "time": at, "tenantid": self.id}
        return event | ({"projectid": self.project_id(slug)} if slug else {}) | {"data": data}

    def _uuid(self, name: str) -> str:
        return str(uuid5(NAMESPACE_URL, f"{self.id}/{name}"))


MAIN_TENANT = DemoTenant(
    "ten_demo",
    {"checkout-api": "Checkout API", "billing-worker": "Billing worker", "web-frontend": "Web frontend"},
    evaluations_per_day=96,
)
# With eight partitions, each tenant has a partition of its own.
TENANTS = (
    MAIN_TENANT,
    DemoTenant("ten_wonka", {"chocolate-factory": "Chocolate factory"}),
    DemoTenant("ten_globex", {"weather-api": "Weather API"}),
    DemoTenant("ten_wayne", {"fleet-tracker": "Fleet tracker"}),
    DemoTenant("ten_initech", {"report-server": "Report server"}),
    DemoTenant("ten_contoso", {"storefront": "Storefront"}),
    DemoTenant("ten_soylent", {"recipe-search": "Recipe search"}),
    DemoTenant("ten_bluth", {"site-planner": "Site planner"}),
)


def history(now_us: int) -> Iterator[dict[str, Any]]:
    """Yield the history of all tenants. An event's id and content depend only on its tenant, day and number."""
    for tenant in TENANTS:
        yield from tenant.history(now_us)


def live_event() -> dict[str, Any]:
    """Return one event of any tenant with the current time."""
    rng = random.Random()  # noqa: S311 (a demo, no secret)
    return rng.choice(TENANTS).live_event(rng)

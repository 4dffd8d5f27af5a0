"""The events of the demo tenant: 30 days of history, identical on every run, and live traffic."""

import random
import time
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from event_stream.events.rfc3339 import format_time

TENANT = "ten_demo"
HISTORY_DAYS = 30
DAY_US = 86_400_000_000
_CREATED_AT = "2026-01-01T00:00:00Z"
_PROJECTS = {"checkout-api": "Checkout API", "billing-worker": "Billing worker", "web-frontend": "Web frontend"}
_RULES = ("Checkout error spike", "Latency above baseline", "Log volume dropped")


def project_id(slug: str) -> str:
    """Return the id of a demo project."""
    return str(uuid5(NAMESPACE_URL, f"{TENANT}/{slug}"))


def project_slugs() -> list[str]:
    """Return the slugs of the demo projects."""
    return list(_PROJECTS)


def history(now_us: int) -> Iterator[dict[str, Any]]:
    """Yield the tenant's configuration, and its events of the 30 days up to `now_us`.

    An event's id and content depend only on its day and number. A demo that is started again, today or tomorrow, sends
    the same events and adds the new ones.
    """
    yield _event("support_desk.bound.v1", _CREATED_AT, None, "desk", bindingId="desk_1")
    for slug, name in _PROJECTS.items():
        yield from _configuration(slug, name)
        today = now_us // DAY_US
        for day in range(today - HISTORY_DAYS + 1, today + 1):
            yield from (event for event in _events_of_day(slug, day) if event["time"] <= format_time(now_us))


def live_event() -> dict[str, Any]:
    """Return one event with the current time."""
    rng = random.Random()  # noqa: S311 (a demo, no secret)
    slug = rng.choice(project_slugs())
    now = format_time(time.time_ns() // 1000)
    return _analysis(slug, now, str(uuid4())) if rng.random() < 0.3 else _evaluation(slug, now, str(uuid4()), rng)


def _configuration(slug: str, name: str) -> Iterator[dict[str, Any]]:
    yield _event(
        "project.created.v1", _CREATED_AT, slug, "created", slug=slug, name=name, isDefault=slug == project_slugs()[0]
    )
    yield _event("watchdog.toggled.v1", _CREATED_AT, slug, "watchdog", enabled=True)
    for number in (1, 2):
        yield _event("log_source.added.v1", _CREATED_AT, slug, f"log/{number}", logSourceId=f"log_{number}")
    yield _event("repo.connected.v1", _CREATED_AT, slug, "repo", repoId="repo_1")
    for number in (1, 2, 3):
        yield _event("notification_channel.added.v1", _CREATED_AT, slug, f"channel/{number}", channelId=f"chn_{number}")


def _events_of_day(slug: str, day: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{slug}/{day}")  # noqa: S311 (a demo, no secret)
    for number in range(rng.randint(0, 6)):
        at = format_time(day * DAY_US + rng.randrange(86_400) * 1_000_000)
        yield _analysis(slug, at, _uuid(f"{slug}/{day}/analysis/{number}"))
    for quarter in range(96):
        at = format_time(day * DAY_US + (quarter * 900 + rng.randrange(60)) * 1_000_000)
        yield _evaluation(slug, at, _uuid(f"{slug}/{day}/evaluation/{quarter}"), rng)


def _analysis(slug: str, at: str, id_: str) -> dict[str, Any]:
    return _envelope("analysis.created.v1", at, slug, id_, {"analysisId": f"ana_{id_[:8]}", "trigger": "api"})


def _evaluation(slug: str, at: str, id_: str, rng: random.Random) -> dict[str, Any]:
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
    return _envelope("watchdog.evaluated.v1", at, slug, id_, data)


def _event(type_: str, at: str, project: str | None, name: str, /, **data: Any) -> dict[str, Any]:
    return _envelope(type_, at, project, _uuid(f"{project}/{name}"), data)


def _envelope(type_: str, at: str, slug: str | None, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": id_, "source": "/demo", "type": type_, "time": at, "tenantid": TENANT}
    return event | ({"projectid": project_id(slug)} if slug else {}) | {"data": data}


def _uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{TENANT}/{name}"))

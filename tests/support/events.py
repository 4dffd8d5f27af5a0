"""Events to append: valid by default, and any attribute or member of data changed on demand."""

import json
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from event_stream.events.event_types import version_of
from event_stream.events.rfc3339 import format_time

DAY_US = 86_400_000_000
NOW_US = time.time_ns() // 1000
PROJECT = "6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11"
OTHER_PROJECT = "0d5d3f0e-88a1-4b7e-8f0b-2f2b8a5f9a22"
TENANT = "ten_acme"
INPUTS = Path(__file__).parents[1] / "data" / "inputs" / "events.jsonl"

DATA: dict[str, dict[str, Any]] = {
    "project.created.v1": {"slug": "checkout-api", "name": "Checkout", "description": "x", "isDefault": False},
    "project.updated.v1": {"slug": "checkout-api", "name": "Checkout"},
    "project.deleted.v1": {},
    "log_source.added.v1": {"logSourceId": "log_1"},
    "log_source.removed.v1": {"logSourceId": "log_1"},
    "repo.connected.v1": {"repoId": "repo_1"},
    "repo.disconnected.v1": {"repoId": "repo_1"},
    "notification_channel.added.v1": {"channelId": "chn_1"},
    "notification_channel.removed.v1": {"channelId": "chn_1"},
    "support_desk.bound.v1": {"bindingId": "desk_1"},
    "support_desk.unbound.v1": {"bindingId": "desk_1"},
    "plan.changed.v1": {"planLimit": 500},
    "watchdog.toggled.v1": {"enabled": True},
    "analysis.created.v1": {"analysisId": "ana_1", "severity": "high", "trigger": "api"},
    "watchdog.evaluated.v1": {
        "ruleId": "wdg_a1b2",
        "ruleName": "Checkout error spike",
        "passed": False,
        "alertFired": True,
        "suppressedReason": None,
        "severity": "high",
        "summary": "Error count is 4.1× the recent baseline",
    },
}


def event(
    type_: str = "analysis.created.v1", changes: dict[str, Any] | None = None, /, **attributes: Any
) -> dict[str, Any]:
    """Return a valid event of a type; `changes` are merged into its data, `attributes` into its envelope."""
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "/test",
        "type": type_,
        "time": format_time(NOW_US - 60_000_000),
        "tenantid": TENANT,
        "projectid": PROJECT,
        "data": DATA[type_] | (changes or {}),
    }
    return made | attributes


def body(made: Any) -> bytes:
    """Return an event as a foreign producer might write it."""
    return json.dumps(made, ensure_ascii=False).encode()


def mixed(count: int, tenants: int = 5, projects: int = 8, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield `count` valid events of all types over several tenants, facts contradicting each other at times.

    Each type has its first version, so that a later one does not change what a seed gives.
    """
    chance = random.Random(seed)
    common = ("watchdog.evaluated.v1", "analysis.created.v1")
    kinds = [
        *["watchdog.evaluated.v1"] * 50,
        *["analysis.created.v1"] * 30,
        *[kind for kind in DATA if kind not in common and version_of(kind)[1] == 1] * 2,
    ]
    project_ids = {
        t: [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(projects)] for t in range(tenants)
    }
    for _ in range(count):
        kind = chance.choice(kinds)
        tenant = chance.randrange(tenants)
        number = chance.randrange(projects)
        data = _varied(kind, chance, number)
        # A coarse grid of times, so that ties happen; older than the window too.
        time_us = NOW_US - 1_000_000 - chance.randrange(40 * 24 * 60) * 60_000_000
        yield event(
            kind,
            data,
            id=str(UUID(int=chance.getrandbits(128), version=4)),
            tenantid=f"ten_{tenant}",
            projectid=project_ids[tenant][number],
            time=format_time(time_us),
        )


def spelled_freely(events: Iterable[dict[str, Any]], seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the events, many of them in other spellings that the contract allows, and with ids that are no UUIDs."""
    chance = random.Random(seed)
    for number, made in enumerate(events):
        spelled = made | {
            "data": {
                name: value
                for name, value in made["data"].items()
                if value not in (None, "") or name == "planLimit" or chance.random() < 0.5
            }
        }
        if chance.random() < 0.2:
            # The numbers repeat, so that only the pair of source and id is unique.
            spelled |= {"id": str(number // 2), "source": f"/test/{number % 2}"}
        for name in ("id", "projectid"):
            if chance.random() < 0.2:
                spelled[name] = spelled[name].upper()
        if chance.random() < 0.2:
            spelled["time"] = spelled["time"].lower()
        yield spelled


def _varied(kind: str, chance: random.Random, number: int) -> dict[str, Any]:
    match kind:
        case "project.created.v1" | "project.updated.v1":
            return _varied_project(kind, chance, number)
        case "watchdog.toggled.v1":
            return {"enabled": chance.random() < 0.5}
        case "plan.changed.v1":
            return {"planLimit": chance.choice([None, 0, 100, 500])}
        case "watchdog.evaluated.v1":
            passed = chance.random() < 0.5
            fired = not passed and chance.random() < 0.5
            reasons = [None, "cooldown", "daily_cap", "dedup"]
            return {
                "ruleId": f"wdg_{chance.randrange(9)}",
                "passed": passed,
                "alertFired": fired,
                "suppressedReason": None if passed or fired else chance.choice(reasons),
                "summary": "" if passed else 'spike "é×\u2028" \\ 🚨',
            }
        case _:
            ids: dict[str, Any] = {
                name: f"{value}_{chance.randrange(6)}" for name, value in DATA[kind].items() if name.endswith("Id")
            }
            if kind == "analysis.created.v1":
                ids["severity"] = chance.choice([None, "critical", "high", "medium", "low", "info"])
            return ids


def _varied_project(kind: str, chance: random.Random, number: int) -> dict[str, Any]:
    texts = {name: chance.choice([None, "x", "é"]) for name in ("description", "llmContext")}
    if kind == "project.created.v1":
        is_default = chance.choice([None, True, False])
        return {"slug": f"project-{number}", "name": f"Project {chance.randrange(9)}", "isDefault": is_default} | texts
    return {"slug": chance.choice([None, f"project-{chance.randrange(9)}"]), "name": None} | texts

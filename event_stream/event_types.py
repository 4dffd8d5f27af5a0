"""Every event type and its data (docs/reference/events.md#types), and the checked event."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias
from zlib import crc32

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from event_stream.envelope import time_us_in

Identity: TypeAlias = tuple[str, str]
Id = Annotated[str, Field(min_length=1, max_length=64)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,100}$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(max_length=1000)]
Severity = Literal["critical", "high", "medium", "low", "info"]
SuppressedReason = Literal["cooldown", "daily_cap", "dedup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The data of an event; members that the type does not name are kept in the log and ignored."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCreated(Data):
    """A project exists from now on. Creating a deleted project again keeps its counts and memberships."""

    slug: Annotated[Slug, Field(description="The slug by which readers find the project.", examples=["checkout-api"])]
    name: Annotated[Name, Field(description="The name that people read.", examples=["Checkout API"])]
    description: Annotated[
        Text | None,
        Field(description="What the project is about.", examples=["Payments and orders"]),
    ] = None
    is_default: Annotated[bool, Field(description="Whether this is the tenant's default project.", examples=[False])]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUpdated(Data):
    """Some facts about a project changed. A member that is left out or null changes nothing."""

    slug: Annotated[Slug | None, Field(description="The new slug.", examples=["checkout-v2"])] = None
    name: Annotated[Name | None, Field(description="The new name.", examples=["Checkout API v2"])] = None
    description: Annotated[
        Text | None,
        Field(description="The new description.", examples=["Payments, orders and refunds"]),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectDeleted(Data):
    """A project no longer exists. Reads answer 404 until it is created again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSourceAdded(Data):
    """A log source was added to the project."""

    log_source_id: Annotated[Id, Field(description="The log source.", examples=["log_7f3a"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSourceRemoved(Data):
    """A log source was removed from the project."""

    log_source_id: Annotated[Id, Field(description="The log source.", examples=["log_7f3a"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoConnected(Data):
    """A source-code repository was connected to the project."""

    repo_id: Annotated[Id, Field(description="The repository.", examples=["repo_19c2"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDisconnected(Data):
    """A source-code repository was disconnected from the project."""

    repo_id: Annotated[Id, Field(description="The repository.", examples=["repo_19c2"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationChannelAdded(Data):
    """A notification channel was added to the project."""

    channel_id: Annotated[Id, Field(description="The channel.", examples=["chn_55d0"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationChannelRemoved(Data):
    """A notification channel was removed from the project."""

    channel_id: Annotated[Id, Field(description="The channel.", examples=["chn_55d0"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportDeskBound(Data):
    """A support desk was bound to the tenant."""

    binding_id: Annotated[Id, Field(description="The binding.", examples=["desk_0b41"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportDeskUnbound(Data):
    """A support desk was unbound from the tenant."""

    binding_id: Annotated[Id, Field(description="The binding.", examples=["desk_0b41"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogToggled(Data):
    """Monitoring of the project was switched on or off."""

    enabled: Annotated[bool, Field(description="Whether monitoring is on from now on.", examples=[True])]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisCreated(Data):
    """An analysis was created. Every event counts, even one that repeats an `analysisId`."""

    analysis_id: Annotated[Id, Field(description="The analysis.", examples=["ana_c81e"])]
    severity: Annotated[Severity | None, Field(description="How severe the finding is.", examples=["high"])] = None
    trigger: Annotated[
        Literal["dashboard", "api", "chat", "support_ticket", "watchdog"] | None,
        Field(description="Where the analysis was started.", examples=["api"]),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogEvaluated(Data):
    """A watchdog rule was evaluated: it passed, it failed and fired an alert, or it failed without an alert."""

    __pydantic_config__ = ConfigDict(
        **Data.__pydantic_config__,
        json_schema_extra={
            "allOf": [
                {
                    "$comment": "A passed evaluation has no alert, no reason and an empty summary.",
                    "if": {"properties": {"passed": {"const": True}}, "required": ["passed"]},
                    "then": {
                        "properties": {
                            "alertFired": {"const": False},
                            "suppressedReason": {"const": None},
                            "summary": {"const": ""},
                        }
                    },
                },
                {
                    "$comment": "A fired alert was not suppressed.",
                    "if": {"properties": {"alertFired": {"const": True}}, "required": ["alertFired"]},
                    "then": {"properties": {"suppressedReason": {"const": None}}},
                },
            ]
        },
    )

    rule_id: Annotated[Id, Field(description="The rule, shown to readers as it is.", examples=["wdg_a1b2"])]
    rule_name: Annotated[Name, Field(description="The rule's name.", examples=["Checkout error spike"])]
    passed: Annotated[bool, Field(description="Whether the rule found nothing wrong.", examples=[False])]
    alert_fired: Annotated[bool, Field(description="Whether an alert was sent.", examples=[True])]
    suppressed_reason: Annotated[
        SuppressedReason | None,
        Field(description="Why no alert was sent although the rule failed; null otherwise.", examples=[None]),
    ]
    severity: Annotated[Severity, Field(description="How severe the rule is.", examples=["high"])]
    summary: Annotated[
        Text,
        Field(
            description="One sentence for people; empty when the rule passed.",
            examples=["Error count is 4.1× the recent baseline"],
        ),
    ]

    def __post_init__(self) -> None:
        """Raise ValueError unless it is one of the three outcomes."""
        if self.passed and (self.alert_fired or self.suppressed_reason or self.summary):
            raise ValueError("a passed evaluation has alertFired false, suppressedReason null and an empty summary")
        if self.alert_fired and self.suppressed_reason:
            raise ValueError("a fired alert has suppressedReason null")


TYPES: dict[str, type[Data]] = {
    "project.created.v1": ProjectCreated,
    "project.updated.v1": ProjectUpdated,
    "project.deleted.v1": ProjectDeleted,
    "log_source.added.v1": LogSourceAdded,
    "log_source.removed.v1": LogSourceRemoved,
    "repo.connected.v1": RepoConnected,
    "repo.disconnected.v1": RepoDisconnected,
    "notification_channel.added.v1": NotificationChannelAdded,
    "notification_channel.removed.v1": NotificationChannelRemoved,
    "support_desk.bound.v1": SupportDeskBound,
    "support_desk.unbound.v1": SupportDeskUnbound,
    "watchdog.toggled.v1": WatchdogToggled,
    "analysis.created.v1": AnalysisCreated,
    "watchdog.evaluated.v1": WatchdogEvaluated,
}
"""Every version of every type that was ever accepted: the log keeps them. Older ones: event_stream/upcasting.py."""
TENANT_LEVEL = frozenset({"support_desk.bound.v1", "support_desk.unbound.v1"})
_VERSIONED = re.compile(r"(.+)\.v([1-9][0-9]{0,8})")


class Event(NamedTuple):
    """One checked fact. `project_id` is None for the tenant-level types; `time_us` counts from 1970 UTC.

    `type`, `time` and `body` are as they were received, also where `data` has been brought to a later version.
    """

    tenant_id: str
    id: str
    type: str
    time: str
    time_us: int
    project_id: str | None
    data: Data
    body: bytes

    @property
    def identity(self) -> Identity:
        """Which event this is, however often it is sent: (tenant, event id) (docs/reference/events.md#identity)."""
        return (self.tenant_id, self.id)

    @property
    def stamp(self) -> tuple[int, str]:
        """What "latest" means wherever facts disagree: (`time`, `id`) (docs/reference/events.md#order)."""
        return (self.time_us, self.id)


def build_event(members: Mapping[str, Any], body: bytes) -> Event:
    """Return the event whose checked members these are; raises ValueError if its `time` is none but for its form."""
    time = members["time"]
    return Event(
        members["tenantid"],
        members["id"],
        members["type"],
        time,
        time_us_in(time),
        members.get("projectid"),
        members["data"],
        body,
    )


def partition_of(tenant_id: str, partitions: int) -> int:
    """Return the partition of a tenant: crc32 of its UTF-8 bytes, modulo P (docs/reference/events.md#streams)."""
    return crc32(tenant_id.encode()) % partitions


def version_of(type_: str) -> tuple[str, int]:
    """Return the name of a type and its version, which is 0 where the type is not of the form `name.v<N>`."""
    found = _VERSIONED.fullmatch(type_)
    return (found[1], int(found[2])) if found else (type_, 0)

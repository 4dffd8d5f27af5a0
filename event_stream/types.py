"""Every event type and its data (CONTRACT 1.3), and what an event is once it is checked."""

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
    slug: Slug
    name: Name
    description: Text | None = None
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUpdated(Data):
    slug: Slug | None = None
    name: Name | None = None
    description: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectDeleted(Data):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSourceAdded(Data):
    log_source_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSourceRemoved(Data):
    log_source_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoConnected(Data):
    repo_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDisconnected(Data):
    repo_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationChannelAdded(Data):
    channel_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationChannelRemoved(Data):
    channel_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportDeskBound(Data):
    binding_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportDeskUnbound(Data):
    binding_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogToggled(Data):
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisCreated(Data):
    analysis_id: Id
    severity: Severity | None = None
    trigger: Literal["dashboard", "api", "chat", "support_ticket", "watchdog"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogEvaluated(Data):
    rule_id: Id
    rule_name: Name
    passed: bool
    alert_fired: bool
    suppressed_reason: SuppressedReason | None
    severity: Severity
    summary: Text

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
"""Every version of every type that was ever accepted: the log keeps them. Older ones: event_stream/versions.py."""
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
        """What makes it the same event wherever it comes again: (tenant, event id) (CONTRACT 1.1)."""
        return (self.tenant_id, self.id)

    @property
    def stamp(self) -> tuple[int, str]:
        """What "latest" means wherever facts disagree: (`time`, `id`) (CONTRACT 2.2)."""
        return (self.time_us, self.id)


def event_of(members: Mapping[str, Any], body: bytes) -> Event:
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
    """Return the partition of a tenant: crc32 of its UTF-8 bytes, modulo the number of partitions (CONTRACT 1.2)."""
    return crc32(tenant_id.encode()) % partitions


def version_of(type_: str) -> tuple[str, int]:
    """Return the name of a type and its version, which is 0 where the type is not of the form `name.v<N>`."""
    found = _VERSIONED.fullmatch(type_)
    return (found[1], int(found[2])) if found else (type_, 0)

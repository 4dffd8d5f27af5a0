"""Every event type and its data (CONTRACT 1.3), and `decode`: bytes to an Event, or the reason why not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union
from zlib import crc32

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from event_stream.envelope import (
    UUID_PATTERN,
    EventId,
    InvalidEventError,
    ProjectId,
    Reason,
    Source,
    TenantId,
    TimeText,
    is_plain,
    matches,
    parse,
    problem_in,
    time_text,
    time_us_in,
)

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


class Arrival(NamedTuple):
    """Where and when an entry arrived, which some of the rules depend on; `at_ms` is the entry's own id."""

    partition: int
    partitions: int
    at_ms: int
    max_clock_skew_s: int

    def suits(self, event: Event) -> bool:
        """Return whether an event may have arrived there and then."""
        is_at_home = partition_of(event.tenant_id, self.partitions) == self.partition
        return is_at_home and event.time_us <= _latest_us(self.at_ms, self.max_clock_skew_s)


def partition_of(tenant_id: str, partitions: int) -> int:
    """Return the partition of a tenant: crc32 of its UTF-8 bytes, modulo the number of partitions (CONTRACT 1.2)."""
    return crc32(tenant_id.encode()) % partitions


def version_of(type_: str) -> tuple[str, int]:
    """Return the name of a type and its version, which is 0 where the type is not of the form `name.v<N>`."""
    found = _VERSIONED.fullmatch(type_)
    return (found[1], int(found[2])) if found else (type_, 0)


def decode(body: bytes, arrival: Arrival | None = None) -> Event:
    """Return the event that `body` holds, by every rule of CONTRACT 1.4 that needs no database.

    Without `arrival` the rules about partition and clock are left out, which is right for what is already in the log.
    Raises InvalidEventError with the first reason that holds.
    """
    event = _valid_at_once(body)
    if event is None or not (arrival is None or arrival.suits(event)):
        return _judged(body, arrival)
    return event


def check_clock(time_us: int, at_ms: int, max_clock_skew_s: int) -> None:
    """Raise InvalidEventError with TIME_IN_FUTURE if `time_us` is too far ahead of the entry's own id, `at_ms`."""
    if time_us > _latest_us(at_ms, max_clock_skew_s):
        raise InvalidEventError(
            Reason.TIME_IN_FUTURE,
            f"time: {time_text(time_us)} is more than {max_clock_skew_s} s ahead of the entry's own id,"
            f" {time_text(at_ms * 1000)}",
        )


def _latest_us(at_ms: int, max_clock_skew_s: int) -> int:
    """Return the latest time that an event may have whose entry's own id is of `at_ms`."""
    return (at_ms + max_clock_skew_s * 1000) * 1000


def _whole(type_: str, data: type[Data]) -> Any:
    """Return the envelope of one type with its data inside: a dict, as an object would take half as long again."""
    members: dict[str, Any] = {
        "specversion": Literal["1.0"],
        "id": EventId,
        "source": Source,
        "type": Literal[type_],
        "time": TimeText,
        "tenantid": TenantId,
        "data": data,
    }
    if type_ not in TENANT_LEVEL:
        members["projectid"] = ProjectId
    return object_with(members)


def object_with(members: dict[str, Any]) -> Any:
    """Return the type of a JSON object that is read as a dict of these members; others are ignored."""
    made: Any = TypedDict("Whole", members)  # type: ignore[misc]  # mypy wants to see the members
    return with_config(ConfigDict(strict=True, extra="ignore"))(made)


def _whole_events() -> TypeAdapter[Any]:
    """Return what tells the types apart by their name, and checks envelope and data of each at once."""
    envelopes: Any = Annotated[Union[tuple(_whole(*each) for each in TYPES.items())], Field(discriminator="type")]  # noqa: UP007
    return TypeAdapter(envelopes)


_VALIDATOR = _whole_events().validator


def _valid_at_once(body: bytes) -> Event | None:
    """Return the event if nothing is wrong with it, in one pass over its bytes: so it is with nearly every one.

    None says nothing but that `_judged` has to look.
    """
    if not is_plain(body):
        return None
    try:
        return event_of(_VALIDATOR.validate_json(body), body)
    except ValueError:
        return None


def _judged(body: bytes, arrival: Arrival | None) -> Event:
    """Return the event, or raise the first reason that holds, rule by rule."""
    envelope = parse(body)
    if envelope.type in TYPES and envelope.type not in TENANT_LEVEL:
        _check_project_id(envelope.projectid)
    if arrival is not None:
        _check_partition(envelope.tenantid, arrival)
    if envelope.type not in TYPES:
        raise InvalidEventError(Reason.UNKNOWN_TYPE, f"type: {envelope.type!r:.100} {_unknown(envelope.type)}")
    try:
        event = event_of(_VALIDATOR.validate_json(body), body)
    except ValidationError as error:
        raise InvalidEventError(Reason.INVALID_DATA, problem_in(error, inside=envelope.type)) from None
    if arrival is not None:
        check_clock(event.time_us, arrival.at_ms, arrival.max_clock_skew_s)
    return event


def _unknown(type_: str) -> str:
    name, version = version_of(type_)
    newest = max((known for other, known in map(version_of, TYPES) if other == name), default=0)
    if not 0 < newest < version:
        return "is not known to this release"
    return (
        f"is of a later release, this one knows up to v{newest}: upgrade the workers,"
        " then `projector dead-letters replay --reason unknown_type`"
    )


def _check_project_id(value: object) -> None:
    if not matches(UUID_PATTERN, value):
        raise InvalidEventError(
            Reason.NOT_AN_EVENT, f"projectid: this type needs a lower-case canonical UUID, not {value!r:.80}"
        )


def _check_partition(tenant_id: str, arrival: Arrival) -> None:
    right = partition_of(tenant_id, arrival.partitions)
    if right != arrival.partition:
        raise InvalidEventError(
            Reason.WRONG_PARTITION,
            f"tenant {tenant_id} belongs to partition {right} of {arrival.partitions}, not {arrival.partition}",
        )

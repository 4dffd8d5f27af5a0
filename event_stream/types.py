"""Every event type and its data (CONTRACT 1.3), and `decode`: bytes to an Event, or the reason why not."""

import re
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias, Union
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic.alias_generators import to_camel

from event_stream.envelope import (
    UUID_PATTERN,
    Envelope,
    InvalidEventError,
    Reason,
    is_plain,
    matches,
    parse,
    problem_in,
    time_text,
)

Identity: TypeAlias = tuple[str, str]
Id = Annotated[str, Field(min_length=1, max_length=64)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,100}$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(max_length=1000)]
Severity = Literal["critical", "high", "medium", "low", "info"]
SuppressedReason = Literal["cooldown", "daily_cap", "dedup"]


class Data(BaseModel):
    """The data of an event; members that the type does not name are kept in the log and ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, alias_generator=to_camel)


class ProjectCreated(Data):
    slug: Slug
    name: Name
    description: Text | None = None
    is_default: bool


class ProjectUpdated(Data):
    slug: Slug | None = None
    name: Name | None = None
    description: Text | None = None


class ProjectDeleted(Data):
    pass


class LogSourceAdded(Data):
    log_source_id: Id


class LogSourceRemoved(Data):
    log_source_id: Id


class RepoConnected(Data):
    repo_id: Id


class RepoDisconnected(Data):
    repo_id: Id


class NotificationChannelAdded(Data):
    channel_id: Id


class NotificationChannelRemoved(Data):
    channel_id: Id


class SupportDeskBound(Data):
    binding_id: Id


class SupportDeskUnbound(Data):
    binding_id: Id


class WatchdogToggled(Data):
    enabled: bool


class AnalysisCreated(Data):
    analysis_id: Id
    severity: Severity | None = None
    trigger: Literal["dashboard", "api", "chat", "support_ticket", "watchdog"] | None = None


class WatchdogEvaluated(Data):
    rule_id: Id
    rule_name: Name
    passed: bool
    alert_fired: bool
    suppressed_reason: SuppressedReason | None
    severity: Severity
    summary: Text

    @model_validator(mode="after")
    def _is_one_of_the_three_outcomes(self) -> Self:
        if self.passed and (self.alert_fired or self.suppressed_reason or self.summary):
            raise ValueError("a passed evaluation has alertFired false, suppressedReason null and an empty summary")
        if self.alert_fired and self.suppressed_reason:
            raise ValueError("a fired alert has suppressedReason null")
        return self


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

    `type` and `body` are as they were received, also where `data` has been brought to a later version.
    """

    tenant_id: str
    id: str
    type: str
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


class Arrival(NamedTuple):
    """Where and when an entry arrived, which some of the rules depend on; `at_ms` is the entry's own id."""

    partition: int
    partitions: int
    at_ms: int
    max_clock_skew_s: int


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
    if event is None:
        return _judged(body, arrival)
    if arrival is not None:
        _check_partition(event.tenant_id, arrival)
        check_clock(event.time_us, arrival.at_ms, arrival.max_clock_skew_s)
    return event


def check_clock(time_us: int, at_ms: int, max_clock_skew_s: int) -> None:
    """Raise InvalidEventError with TIME_IN_FUTURE if `time_us` is too far ahead of the entry's own id, `at_ms`."""
    if time_us > (at_ms + max_clock_skew_s * 1000) * 1000:
        raise InvalidEventError(
            Reason.TIME_IN_FUTURE,
            f"time: {time_text(time_us)} is more than {max_clock_skew_s} s ahead of the entry's own id,"
            f" {time_text(at_ms * 1000)}",
        )


def _whole(type_: str, data: type[Data]) -> type[Envelope]:
    """Return the envelope of one type with its data inside."""
    members: dict[str, Any] = {"type": (Literal[type_], ...), "data": (data, ...)}
    if type_ not in TENANT_LEVEL:
        members["projectid"] = (Annotated[str, Field(pattern=UUID_PATTERN)], ...)
    return create_model(f"{data.__name__}Event", __base__=Envelope, **members)


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
        whole = _VALIDATOR.validate_json(body)
    except ValidationError:
        return None
    project_id = None if whole.type in TENANT_LEVEL else whole.projectid
    return Event(whole.tenantid, whole.id, whole.type, whole.time_us, project_id, whole.data, body)


def _judged(body: bytes, arrival: Arrival | None) -> Event:
    """Return the event, or raise the first reason that holds, rule by rule."""
    envelope = parse(body)
    data_class = TYPES.get(envelope.type)
    project_id = None
    if data_class is not None and envelope.type not in TENANT_LEVEL:
        project_id = _project_id(envelope.projectid)
    if arrival is not None:
        _check_partition(envelope.tenantid, arrival)
    if data_class is None:
        raise InvalidEventError(Reason.UNKNOWN_TYPE, f"type: {envelope.type!r:.100} {_unknown(envelope.type)}")
    try:
        data = data_class.model_validate(envelope.data)
    except ValidationError as error:
        raise InvalidEventError(Reason.INVALID_DATA, problem_in(error, inside="data")) from None
    if arrival is not None:
        check_clock(envelope.time_us, arrival.at_ms, arrival.max_clock_skew_s)
    return Event(envelope.tenantid, envelope.id, envelope.type, envelope.time_us, project_id, data, body)


def _unknown(type_: str) -> str:
    name, version = version_of(type_)
    newest = max((known for other, known in map(version_of, TYPES) if other == name), default=0)
    if not 0 < newest < version:
        return "is not known to this release"
    return (
        f"is of a later release, this one knows up to v{newest}: upgrade the workers,"
        " then `projector dead-letters replay --reason unknown_type`"
    )


def _project_id(value: object) -> str:
    if isinstance(value, str) and matches(UUID_PATTERN, value):
        return value
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

"""Every event type and its data (docs/reference/events.md#types)."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from event_stream.events.patterns import NO_CONTROL_PATTERN, SLUG_PATTERN

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_PATTERN)]
Slug = Annotated[str, Field(pattern=SLUG_PATTERN)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
FreeText = Annotated[str, Field(max_length=1000)]
LlmContext = Annotated[str, Field(max_length=2000)]
Severity = Literal["critical", "high", "medium", "low", "info"]
SuppressedReason = Literal["cooldown", "daily_cap", "dedup"]
PLAN_LIMIT_MAX = 2**53 - 1  # the largest integer that every JSON library keeps exactly


class OrNull:
    """Lets a member with a default be null. `__post_init__` of its class replaces null by the default."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(handler(source))


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Base class of the data of an event. Unknown members are ignored, but kept in the event log."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCreated(Data):
    """A project was created. Creating a deleted project again keeps its counts and memberships."""

    slug: Annotated[Slug, Field(description="The slug by which reads find the project.", examples=["checkout-api"])]
    name: Annotated[Name, Field(description="The name shown to people.", examples=["Checkout API"])]
    description: Annotated[
        FreeText | None,
        Field(description="What the project is about.", examples=["Payments and orders"]),
    ] = None
    is_default: Annotated[
        bool | None,
        Field(
            description="Whether this is the tenant's default project; false until an event says so.", examples=[False]
        ),
    ] = None
    llm_context: Annotated[
        LlmContext | None,
        Field(description="What a language model should know about the project.", examples=["Payments use Stripe."]),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUpdated(Data):
    """A project's slug, name or texts changed. A member that is missing or null changes nothing."""

    slug: Annotated[Slug | None, Field(description="The new slug.", examples=["checkout-v2"])] = None
    name: Annotated[Name | None, Field(description="The new name.", examples=["Checkout API v2"])] = None
    description: Annotated[
        FreeText | None,
        Field(description="The new description.", examples=["Payments, orders and refunds"]),
    ] = None
    llm_context: Annotated[
        LlmContext | None,
        Field(description="What a language model should know from now on.", examples=["Payments use Adyen."]),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectDeleted(Data):
    """A project was deleted. Reads answer 404 until it is created again."""


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
class PlanChanged(Data):
    """The tenant's plan changed: how many analyses it may create in a calendar month."""

    plan_limit: Annotated[
        int | None,
        Field(ge=0, le=PLAN_LIMIT_MAX, description="Analyses per month; null for unlimited.", examples=[500]),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogToggled(Data):
    """Monitoring of the project was switched on or off."""

    enabled: Annotated[bool, Field(description="Whether monitoring is on after this event.", examples=[True])]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisCreated(Data):
    """An analysis was created. Every event is counted, even if it repeats an `analysisId`."""

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
                            "summary": {"enum": ["", None]},
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

    rule_id: Annotated[Id, Field(description="The rule's id, shown in reads.", examples=["wdg_a1b2"])]
    rule_name: Annotated[Name, Field(description="The rule's name.", examples=["Checkout error spike"])]
    passed: Annotated[bool, Field(description="Whether the rule passed.", examples=[False])]
    alert_fired: Annotated[bool, Field(description="Whether an alert was sent.", examples=[True])]
    suppressed_reason: Annotated[
        SuppressedReason | None,
        Field(description="Why no alert was sent although the rule failed; null otherwise.", examples=[None]),
    ] = None
    severity: Annotated[Severity, Field(description="How severe the rule is.", examples=["high"])]
    summary: Annotated[
        FreeText,
        OrNull(),
        Field(
            description="One sentence for people; empty by default, and if the rule passed.",
            examples=["Error count is 4.1× the recent baseline"],
        ),
    ] = ""

    def __post_init__(self) -> None:
        """Replace null by the default; raise ValueError if the members contradict each other."""
        if not self.summary:
            object.__setattr__(self, "summary", "")
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
    "plan.changed.v1": PlanChanged,
    "watchdog.toggled.v1": WatchdogToggled,
    "analysis.created.v1": AnalysisCreated,
    "watchdog.evaluated.v1": WatchdogEvaluated,
}
"""Every version of every type. Never remove one: the event log keeps events of all versions (see upcasting.py)."""
TENANT_LEVEL = frozenset({"support_desk.bound.v1", "support_desk.unbound.v1", "plan.changed.v1"})
_VERSIONED = re.compile(r"(.+)\.v([1-9][0-9]{0,8})")


def version_of(type_: str) -> tuple[str, int]:
    """Return the name and version of a type; the version is 0 if the type is not of the form `name.v<N>`."""
    found = _VERSIONED.fullmatch(type_)
    return (found[1], int(found[2])) if found else (type_, 0)

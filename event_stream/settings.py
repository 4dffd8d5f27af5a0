"""`Settings`: the base class of all settings from environment variables; and `StreamSettings`."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from event_stream.errors import EventStreamError


class SettingsError(EventStreamError):
    """An environment variable is missing or not allowed. The message names the variable, but not its value."""


class Settings(BaseModel):
    """Base class of settings that are read from environment variables.

    In each field, `alias` is the environment variable, `description` lists its allowed values, `title` is its meaning.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in `environ`; an empty value counts as unset.

        Raises SettingsError for the first variable that is missing or not allowed.
        """
        try:
            return cls.model_validate({name: environ[name] for name in cls._variables() if environ.get(name)})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            problem = "is not set; set it to" if first["type"] == "missing" else "must be"
            raise SettingsError(f"{name}: {problem} {cls._variables()[name]}") from None

    @classmethod
    def _variables(cls) -> dict[str, str | None]:
        """Return the variables of these settings, each with its allowed values."""
        return {field.alias: field.description for field in cls.model_fields.values() if field.alias}


class StreamSettings(Settings):
    """Settings that producers and workers share (docs/reference/settings.md#streams)."""

    partitions: int = Field(
        default=8,
        ge=1,
        le=1024,
        alias="PROJECTOR_PARTITIONS",
        title="The number of partitions. It cannot change later.",
        description="a whole number from 1 to 1024",
    )
    max_clock_skew_s: int = Field(
        default=300,
        ge=0,
        le=86_400,
        alias="PROJECTOR_MAX_CLOCK_SKEW_S",
        title="How far the time of an event may be ahead of now, by two of three clocks (events.md#clocks).",
        description="seconds from 0 to 86400",
    )
    backlog_limit: int = Field(
        default=1_000_000,
        ge=1,
        alias="PROJECTOR_BACKLOG_LIMIT",
        title="How many entries of a partition may wait to be projected before appends are refused.",
        description="a whole number, at least 1",
    )

"""Settings from environment variables: how every package reads its own, and the ones about streams."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from event_stream.errors import EventStreamError


class SettingsError(EventStreamError):
    """An environment variable holds a value that is not allowed; the message names the variable, never a secret."""


class Settings(BaseModel):
    """Base of each package's settings: a field's alias is its variable.

    Its description says what the variable may hold, its title what it is for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings that `environ` holds; an empty value counts as unset.

        Raises SettingsError for the first variable whose value is not allowed.
        """
        try:
            return cls.model_validate({name: environ[name] for name in cls._names() if environ.get(name)})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            problem = "is not set; set it to" if first["type"] == "missing" else "must be"
            raise SettingsError(f"{name}: {problem} {cls._names()[name]}") from None

    @classmethod
    def _names(cls) -> dict[str, str | None]:
        """Return the variables of these settings, each with what it may hold."""
        return {field.alias: field.description for field in cls.model_fields.values() if field.alias}


class StreamSettings(Settings):
    """How streams are laid out, and limits that producers and workers share (docs/reference/settings.md#streams)."""

    partitions: int = Field(
        default=8,
        ge=1,
        le=1024,
        alias="PROJECTOR_PARTITIONS",
        title="The number of streams. It is fixed for the life of a deployment.",
        description="a whole number from 1 to 1024",
    )
    max_clock_skew_s: int = Field(
        default=300,
        ge=0,
        le=86_400,
        alias="PROJECTOR_MAX_CLOCK_SKEW_S",
        title="How far the time of an event may be ahead of the time in its stream entry's id.",
        description="seconds from 0 to 86400",
    )
    backlog_limit: int = Field(
        default=1_000_000,
        ge=1,
        alias="PROJECTOR_BACKLOG_LIMIT",
        title="How many entries of a partition may wait to be projected before producers are refused.",
        description="a whole number from 1 on",
    )

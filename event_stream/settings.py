"""Settings from environment variables: how every package reads its own, and the ones about streams."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from event_stream.errors import EventStreamError


class SettingsError(EventStreamError):
    """An environment variable holds a value that is not allowed; the message names the variable, never a secret."""


class Settings(BaseModel):
    """Base of each package's settings: one field per variable, its alias the variable's name."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings that `environ` holds; an empty value counts as unset.

        Raises SettingsError for the first variable whose value is not allowed.
        """
        try:
            return cls.model_validate({name: value for name, value in environ.items() if value != ""})
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            if first["type"] == "missing":
                raise SettingsError(f"{name}: is not set; set it to {cls._described(name)}") from None
            raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None

    @classmethod
    def _described(cls, name: int | str) -> str | None:
        return next(field.description for field in cls.model_fields.values() if field.alias == name)


class StreamSettings(Settings):
    """How streams are laid out, and the limits that producers and workers share (CONTRACT 1.2, section 3)."""

    partitions: int = Field(default=8, ge=1, le=1024, alias="PROJECTOR_PARTITIONS")
    max_clock_skew_s: int = Field(default=300, ge=0, le=86_400, alias="PROJECTOR_MAX_CLOCK_SKEW_S")
    backlog_limit: int = Field(default=1_000_000, ge=1, alias="PROJECTOR_BACKLOG_LIMIT")

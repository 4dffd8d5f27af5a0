"""`DatabaseSettings`: where the database is; and `DeadLetterSettings`: how long and how many dead letters are kept."""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from event_stream.server_urls import ServerUrlError
from event_stream.settings import Settings, SettingsError
from projections import database_url

DEFAULT_SCHEMA = "public"
SCHEMA_PARAMETER = "schema"
"""The parameter of a database URL that names the schema. It is taken out before the driver sees the URL."""
_SCHEMA_NAME = re.compile(r"(?!pg_|information_schema$)[a-z_][a-z0-9_]{0,62}")


class DatabaseSettings(Settings):
    """The database of the event log and the read models: SQLite in the data directory, unless DATABASE_URL is set."""

    data_dir: Path = Field(
        default=Path("var"),
        alias="PROJECTOR_DATA_DIR",
        title="The folder for the files of `projector up`.",
        description="a folder",
    )
    configured_url: str | None = Field(
        default=None,
        alias="DATABASE_URL",
        title="The database of the event log and the read models. Without it, SQLite in `PROJECTOR_DATA_DIR` is used.",
        repr=False,
        description=database_url.ALLOWED,
    )

    schema_name: str = Field(
        default=DEFAULT_SCHEMA,
        alias="PROJECTOR_SCHEMA",
        title="The schema of the tables on PostgreSQL. With one for each, several deployments can share a database.",
        description="at most 63 lower-case letters, digits and _; not pg_…",
    )

    @field_validator("configured_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            database_url.parse(value)
        except ServerUrlError as error:
            raise SettingsError(f"DATABASE_URL: {error}") from None
        return value

    @field_validator("schema_name")
    @classmethod
    def _check_schema(cls, value: str) -> str:
        if not _SCHEMA_NAME.fullmatch(value):
            raise ValueError("not a name that needs no quotes")
        return value

    @model_validator(mode="after")
    def _sqlite_has_no_schemas(self) -> Self:
        is_sqlite = self.configured_url is None or database_url.parse(self.configured_url).drivername == "sqlite"
        if is_sqlite and self.schema_name != DEFAULT_SCHEMA:
            raise SettingsError("PROJECTOR_SCHEMA: is set, but SQLite has no schemas; unset it, or use PostgreSQL")
        return self

    @property
    def database_url(self) -> str:
        """The URL for `projections.database.engines`, which take the driver and the schema from it."""
        if self.configured_url is None:
            return database_url.sqlite_url(self.data_dir.resolve() / "projector.db")
        url = database_url.parse(self.configured_url)
        if url.drivername != "sqlite" and self.schema_name != DEFAULT_SCHEMA:
            url = url.update_query_dict({SCHEMA_PARAMETER: self.schema_name})
        return url.render_as_string(hide_password=False)


class DeadLetterSettings(Settings):
    """The limits of dead letters (docs/reference/events.md#dead-letters)."""

    closed_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        alias="PROJECTOR_DEAD_LETTER_DAYS",
        title="How long a closed dead letter is kept.",
        description="days from 1 to 3650",
    )
    kept_max: int = Field(
        default=10_000,
        ge=1,
        alias="PROJECTOR_DEAD_LETTERS_MAX",
        title="How many open dead letters of a tenant and reason are kept. Older ones are only counted.",
        description="a whole number, at least 1",
    )

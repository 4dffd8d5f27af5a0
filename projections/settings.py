"""`DatabaseSettings`: where the database is; and `DeadLetterSettings`: how long and how many dead letters are kept."""

from pathlib import Path

from pydantic import Field, field_validator

from event_stream.server_urls import ServerUrlError
from event_stream.settings import Settings, SettingsError
from projections import database_url


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

    @field_validator("configured_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            database_url.parse(value)
        except ServerUrlError as error:
            raise SettingsError(f"DATABASE_URL: {error}") from None
        return value

    @property
    def database_url(self) -> str:
        """The URL for SQLAlchemy, in which `postgres://` and `postgresql://` use psycopg 3."""
        if self.configured_url is None:
            return database_url.sqlite_url(self.data_dir.resolve() / "projector.db")
        return database_url.parse(self.configured_url).render_as_string(hide_password=False)


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

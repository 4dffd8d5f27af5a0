"""`RedisSettings`: the address of Redis."""

from pydantic import Field, field_validator

from event_stream.server_urls import ServerUrlError, check_redis_url
from event_stream.settings import Settings, SettingsError

_ALLOWED = "redis://host:6379/0, rediss://… or unix://… (or run `projector up` in this folder)"


class RedisSettings(Settings):
    """The Redis server that holds the streams and RQ's queue."""

    redis_url: str = Field(
        alias="REDIS_URL",
        title="The Redis server that carries the streams and RQ's queue.",
        repr=False,
        description=_ALLOWED,
    )

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: str) -> str:
        try:
            check_redis_url(value)
        except ServerUrlError as error:
            raise SettingsError(f"REDIS_URL: {error}") from None
        return value

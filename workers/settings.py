"""The setting of this package: where Redis is."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from event_stream.settings import Settings


class RedisSettings(Settings):
    """Which Redis carries RQ's queue and the streams."""

    redis_url: str = Field(alias="REDIS_URL", repr=False, description="redis://host:6379/0, or run `projector up` here")

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return value

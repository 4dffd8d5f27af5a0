"""Settings of the API: where it listens, and how long it may trust a key."""

from pydantic import Field

from event_stream.settings import Settings


class ApiSettings(Settings):
    """Where the API and its operations endpoints listen; ops are beside the API unless OPS_PORT is set."""

    host: str = Field(default="127.0.0.1", alias="HOST")
    port: int = Field(default=8000, ge=0, le=65_535, alias="PORT")
    ops_host: str | None = Field(default=None, alias="OPS_HOST")
    ops_port: int | None = Field(default=None, ge=0, le=65_535, alias="OPS_PORT")
    key_cache_s: float = Field(default=5.0, ge=0, le=3600, alias="PROJECTOR_KEY_CACHE_S")

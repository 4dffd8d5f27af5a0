"""Settings of the API: its addresses, its limits, and how long it caches keys."""

from typing import Self

from pydantic import Field, model_validator

from api_stub.serving.limits import CONNECTIONS_MAX, OTHER_FILES, connections_allowed
from event_stream.settings import Settings, SettingsError

_PORT = "a port from 0 to 65535"


class ApiSettings(Settings):
    """Addresses of the API and of its operations endpoints. They are the same unless OPS_PORT is set."""

    host: str = Field(
        default="127.0.0.1",
        alias="HOST",
        title="The address that the API listens on.",
        description="an address of this machine",
    )
    port: int = Field(
        default=8000,
        ge=0,
        le=65_535,
        alias="PORT",
        title="The port that the API listens on. With 0 the operating system chooses one.",
        description=_PORT,
    )
    ops_host: str | None = Field(
        default=None,
        alias="OPS_HOST",
        title="The address of the operations endpoints. It needs `OPS_PORT`; without it, `HOST` is used.",
        description="an address of this machine",
    )
    ops_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        alias="OPS_PORT",
        title="The port of the operations endpoints. Without it, they use the port of the API.",
        description=_PORT,
    )
    key_cache_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        alias="PROJECTOR_KEY_CACHE_S",
        title="How long an API process may use a key that has been revoked since it was looked up.",
        description="seconds from 0 to 3600",
    )

    connections_max: int | None = Field(
        default=None,
        ge=1,
        alias="PROJECTOR_CONNECTIONS_MAX",
        title=(
            "How many connections an API process accepts; then the one that has waited longest is closed. Without it, "
            f"{OTHER_FILES} less than the process may open files, at most {CONNECTIONS_MAX:,}."
        ),
        description=f"a whole number, at most {OTHER_FILES} less than `ulimit -n`",
    )
    keep_alive_s: int = Field(
        default=75,
        ge=1,
        le=3600,
        alias="PROJECTOR_KEEP_ALIVE_S",
        title="How long a connection stays open for the next request. Keep it longer than a proxy in front does.",
        description="seconds from 1 to 3600",
    )
    shutdown_grace_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        alias="PROJECTOR_SHUTDOWN_GRACE_S",
        title="How long the API answers on after SIGTERM, while `/readyz` answers 503. Always 0 under `projector up`.",
        description="seconds from 0 to 3600",
    )

    @model_validator(mode="after")
    def _connections_need_files(self) -> Self:
        allowed = connections_allowed()
        if self.connections_max is not None and self.connections_max > allowed:
            raise SettingsError(
                f"PROJECTOR_CONNECTIONS_MAX: must be at most {allowed}, as this process may open few files; "
                "raise `ulimit -n`, or set it lower"
            )
        return self

    @model_validator(mode="after")
    def _ops_host_needs_ops_port(self) -> Self:
        if self.ops_host is not None and self.ops_port is None:
            raise SettingsError("OPS_HOST: is set without OPS_PORT, so nothing would listen there; set both")
        return self

    @property
    def connection_limit(self) -> int:
        """How many connections an API process accepts."""
        return self.connections_max or min(connections_allowed(), CONNECTIONS_MAX)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses to listen on: the API's, then that of the operations endpoints if it is another one."""
        api = (self.host, self.port)
        return [api] if self.ops_port is None else [api, (self.ops_host or self.host, self.ops_port)]

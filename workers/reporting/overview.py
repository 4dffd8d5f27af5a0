"""The overview that `projector status` shows: the status, and details that only this command needs.

Rates and tenants are not part of the status, so that health checks and scrapes stay cheap.
"""

from pydantic import Field, computed_field

from workers.reporting.problems import all_problems, health_state
from workers.reporting.status import Status
from workers.reporting.status_reader import read_status
from workers.reporting.tenants import BusiestTenants, read_tenants
from workers.runtime import Runtime
from workers.telemetry.apply_rates import Rate, read_rates


class Overview(Status):
    """The status, the throughput of each partition, and the busiest tenants."""

    read_at_ms: int = Field(description="Time of this reading by Redis's clock, in milliseconds since 1970.")
    rates: list[Rate] = Field(description="Throughput of each partition, by number.")
    tenants: BusiestTenants = Field(description="Tenants with the most traffic and with the most entries in flight.")

    @computed_field(  # type: ignore[prop-decorator]
        description="`ok`, `degraded` or `failing`, as `GET /healthz/projector` reports it."
    )
    @property
    def health(self) -> str:
        """The health in one word."""
        return health_state(self)

    @computed_field(  # type: ignore[prop-decorator]
        description="Everything that is wrong, each with its remedy."
    )
    @property
    def problems(self) -> list[str]:
        """All errors and warnings."""
        return all_problems(self)


def read_overview(runtime: Runtime) -> Overview:
    """Return the overview of the deployment; raises errors of Redis and of the database."""
    status = read_status(runtime)
    now_ms = runtime.stream.now_ms()
    rates = read_rates(runtime.queue.connection, runtime.stream.partitions, now_ms)
    tenants = read_tenants(runtime, status, rates, now_ms)
    return Overview(**dict(status), read_at_ms=now_ms, rates=rates, tenants=tenants)

"""What `projector status` shows: the reading that health and metrics share, and what only people look at.

Rates and tenants are read by the command alone, so that a check or a scrape stays as cheap as it is.
"""

from typing import Annotated

from pydantic import Field, computed_field

from workers.reporting.status import Status, read_status
from workers.reporting.tenants import Tenants, read_tenants
from workers.runtime import Runtime
from workers.telemetry.apply_rates import Rate, read_rates


class Overview(Status):
    """The state of the deployment, how fast it goes, and for whom."""

    read_at_ms: Annotated[int, Field(description="Time of this reading by Redis's clock, in milliseconds since 1970.")]
    rates: Annotated[list[Rate], Field(description="Throughput of each partition, by number.")]
    tenants: Annotated[Tenants, Field(description="Tenants with the most traffic and with the most entries in flight.")]

    @computed_field(  # type: ignore[prop-decorator]
        alias="health", description="`ok`, `degraded` or `failing`, as `GET /healthz/projector` reports it."
    )
    @property
    def shown_health(self) -> str:
        """The health as one word."""
        return self.health

    @computed_field(  # type: ignore[prop-decorator]
        alias="problems", description="Everything that is wrong, each with its remedy."
    )
    @property
    def shown_problems(self) -> list[str]:
        """The problems, as a member of the JSON document."""
        return self.problems()


def read_overview(runtime: Runtime) -> Overview:
    """Return what there is to see; raises what Redis or the database raise."""
    status = read_status(runtime)
    now_ms = runtime.stream.now_ms()
    rates = read_rates(runtime.queue.connection, runtime.stream.partitions, now_ms)
    return Overview(
        **dict(status), read_at_ms=now_ms, rates=rates, tenants=read_tenants(runtime, status, rates, now_ms)
    )

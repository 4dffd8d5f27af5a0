"""What `projector status` shows: the reading that health and metrics share, and what only people look at.

Rates and tenants are read by the command alone, so that a check or a scrape stays as cheap as it is.
"""

from typing import Annotated

from pydantic import computed_field

from workers.rates import Rate, read_rates
from workers.runtime import Runtime
from workers.status import Status, read_status
from workers.tenants import Tenants, read_tenants
from workers.told import Told


class Overview(Status):
    """The state of the deployment, how fast it goes, and for whom."""

    at_ms: Annotated[int, Told("ms", "When this was read, since 1970, by Redis's clock.")]
    rates: Annotated[list[Rate], Told("", "How fast each partition goes, by its number.")]
    tenants: Annotated[Tenants, Told("", "The tenants that matter most.")]

    @computed_field(alias="health")  # type: ignore[prop-decorator]
    @property
    def told_health(
        self,
    ) -> Annotated[str, Told("", "`ok`, `degraded` or `failing`, as `GET /healthz/projector` says.")]:
        """The state in one word."""
        return self.health

    @computed_field(alias="problems")  # type: ignore[prop-decorator]
    @property
    def told_problems(self) -> Annotated[list[str], Told("", "All that is not as it should be, each with its remedy.")]:
        """The problems, for machines too."""
        return self.problems()


def read_overview(runtime: Runtime) -> Overview:
    """Return what there is to see; raises what Redis or the database raise."""
    status = read_status(runtime)
    now_ms = runtime.stream.now_ms()
    rates = read_rates(runtime.queue.connection, runtime.stream.partitions, now_ms)
    return Overview(**dict(status), at_ms=now_ms, rates=rates, tenants=read_tenants(runtime, status, rates, now_ms))

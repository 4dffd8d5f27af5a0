"""The state of the deployment and of this API process at the time of one scrape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.databases import LookupDatabase
from api_stub.request_metrics import RequestMetrics
from workers.reporting.status import Status
from workers.reporting.status_reader import DatabaseState, RedisState
from workers.telemetry.batch_metrics import BatchMetrics


@dataclass(frozen=True, slots=True)
class ApiProcess:
    """The API process that answers the scrape: its requests, lookups and connections."""

    requests: RequestMetrics
    coalescers: Mapping[str, Coalescer[Any, Any]]
    database: LookupDatabase


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Everything that one scrape has read. A source that could not be read is None."""

    api_process: ApiProcess
    database: DatabaseState | None
    redis: RedisState | None
    batch_metrics: BatchMetrics | None
    status: Status | None

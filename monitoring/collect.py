"""Turns a snapshot into metrics of the Prometheus client library."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from monitoring.catalogue import (
    AVAILABILITY,
    FROM_API_PROCESS,
    FROM_BATCH_METRICS,
    FROM_BOTH_SERVERS,
    FROM_DATABASE,
    FROM_REDIS,
)
from monitoring.definition import HistogramValue, MetricDefinition
from monitoring.snapshot import MetricsSnapshot

S = TypeVar("S")

_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def collect(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """Yield every metric whose source the snapshot has, complete with all its samples."""
    sources: list[tuple[Sequence[MetricDefinition[Any]], Any]] = [
        (AVAILABILITY, snapshot),
        (FROM_DATABASE, snapshot.database),
        (FROM_BOTH_SERVERS, snapshot.status),
        (FROM_REDIS, snapshot.redis),
        (FROM_BATCH_METRICS, snapshot.batch_metrics),
        (FROM_API_PROCESS, snapshot.api_process),
    ]
    for definitions, source in sources:
        if source is not None:
            yield from (_family(definition, source) for definition in definitions)


def _family(definition: MetricDefinition[S], source: S) -> Metric:
    family: Any = _FAMILIES[definition.kind](definition.name, definition.help, labels=definition.labels)
    for labels, value in definition.samples(source):
        if isinstance(value, HistogramValue):
            bounds = [*map(floatToGoString, value.bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]

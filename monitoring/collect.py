"""Turns a snapshot into metrics of the Prometheus client library."""

from collections.abc import Iterator, Mapping, Sequence
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
    # A standby is as old as its copy. Without the label, its series could not be told from those of the primary.
    of_database = {"database": "standby"} if snapshot.database is not None and snapshot.database.is_standby else {}
    sources: list[tuple[Sequence[MetricDefinition[Any]], Any, Mapping[str, str]]] = [
        (AVAILABILITY, snapshot, {}),
        (FROM_DATABASE, snapshot.database, of_database),
        (FROM_BOTH_SERVERS, snapshot.status, of_database),
        (FROM_REDIS, snapshot.redis, {}),
        (FROM_BATCH_METRICS, snapshot.batch_metrics, {}),
        (FROM_API_PROCESS, snapshot.api_process, {}),
    ]
    for definitions, source, constant_labels in sources:
        if source is not None:
            yield from (_family(definition, source, constant_labels) for definition in definitions)


def _family(definition: MetricDefinition[S], source: S, constant_labels: Mapping[str, str]) -> Metric:
    names = (*definition.labels, *constant_labels)
    family: Any = _FAMILIES[definition.kind](definition.name, definition.help, labels=names)
    for own_labels, value in definition.samples(source):
        labels = (*own_labels, *constant_labels.values())
        if isinstance(value, HistogramValue):
            bounds = [*map(floatToGoString, value.bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]

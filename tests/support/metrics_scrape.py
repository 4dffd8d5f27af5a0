"""Scrapes /metrics and looks up samples by name and labels."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import anyio
from prometheus_client.parser import text_string_to_metric_families

from api_stub.lookups.databases import open_database
from api_stub.request_metrics import RequestMetrics
from monitoring.scrape import ScrapeHandler
from monitoring.snapshot import ApiProcess
from workers.runtime import Runtime


@dataclass(frozen=True)
class Scraped:
    """One scrape: its text, and the value of each sample by name and labels."""

    text: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, text: str) -> "Scraped":
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        samples = {(each.name, frozenset(each.labels.items())): each.value for each in found}
        assert len(samples) == len(found), "a sample is reported twice"
        return cls(text, samples)

    def __call__(self, name: str, **labels: str) -> float:
        wanted = frozenset(labels.items())
        (value,) = [
            value for (each, found), value in self.samples.items() if each == name and _without_run(found) == wanted
        ]
        return value

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def labels(self, name: str) -> dict[str, set[str]]:
        """Return the labels of a metric's samples with their values."""
        found: dict[str, set[str]] = {}
        for labels in (labels for each, labels in self.samples if each == name):
            for label, value in labels:
                found.setdefault(label, set()).add(value)
        return found


def _without_run(labels: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Return the labels without `redis_run`, which is the same for all samples of a scrape."""
    return frozenset((label, value) for label, value in labels if label != "redis_run")


def scrape(runtime: Runtime) -> Scraped:
    """Return the metrics that an API process on this runtime reports."""
    executor = ThreadPoolExecutor(2)
    try:
        own = ApiProcess(RequestMetrics(), {}, open_database(runtime.reader, executor))
        return Scraped.of(anyio.run(ScrapeHandler(runtime, executor, own)).decode())
    finally:
        executor.shutdown(wait=False)

"""What a scrape of /metrics holds, as a test asks for it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import anyio
from prometheus_client.parser import text_string_to_metric_families

from api_stub.lookups.lookup import database
from api_stub.request_metrics import Meter
from monitoring.metrics import Own
from monitoring.scrape import Scrape
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
        assert len(samples) == len(found), "a sample is told twice"
        return cls(text, samples)

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def labels(self, name: str) -> dict[str, set[str]]:
        """Return the labels of a metric's samples, each with its values."""
        found: dict[str, set[str]] = {}
        for labels in (labels for each, labels in self.samples if each == name):
            for label, value in labels:
                found.setdefault(label, set()).add(value)
        return found


def scrape(runtime: Runtime) -> Scraped:
    """Return what an API process on a runtime answers."""
    executor = ThreadPoolExecutor(2)
    try:
        own = Own(Meter(), {}, database(runtime.reader, executor))
        return Scraped.of(anyio.run(Scrape(runtime, executor, own)).decode())
    finally:
        executor.shutdown(wait=False)

"""Which keys Redis may hold: those that the product's modules document beside the code, and RQ's own."""

import re
from collections.abc import Iterable
from types import ModuleType

from event_stream import stream
from workers.dispatch import dispatcher
from workers.drain import circuit_breaker
from workers.jobs import queue
from workers.maintenance import verify_jobs, verify_results
from workers.telemetry import apply_rates, batch_metrics, progress

DOCUMENTING = (
    stream,
    circuit_breaker,
    dispatcher,
    progress,
    queue,
    apply_rates,
    batch_metrics,
    verify_results,
    verify_jobs,
)
# RQ documents its keys nowhere; these are all that it makes for a queue like ours.
RQ_KEYS = (
    "rq:queues",  # the names of the queues
    "rq:queue:{queue}",
    "rq:queue:{queue}:intermediate",
    "rq:workers",
    "rq:workers:{queue}",
    "rq:worker:{worker}",
    "rq:worker:{worker}:executions",
    "rq:job:{job}",
    "rq:executions:{job}",
    "rq:execution:{job}:{execution}",
    "rq:results:{job}",
    "rq:wip:{queue}",  # the registries of jobs: started, finished, failed, …
    "rq:finished:{queue}",
    "rq:failed:{queue}",
    "rq:deferred:{queue}",
    "rq:scheduled:{queue}",
    "rq:canceled:{queue}",
    "rq:clean_registries:{queue}",  # locks, which expire
    "rq:clean_groups",
)
_DOCUMENTED = re.compile(r"^ {4}(\S+) +(?:string|hash|list|stream|set|sorted set)\b", re.MULTILINE)


def documented(modules: Iterable[ModuleType] = DOCUMENTING) -> list[str]:
    """Return the keys of the legends in the modules' docstrings, such as `events:{p}`."""
    return [key for module in modules for key in _DOCUMENTED.findall(module.__doc__ or "")]


class Legend:
    """Tells of a key which documented one it is; of one that nobody documents, None."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._known = [(key, re.compile(_pattern(key))) for key in sorted(keys)]

    def of(self, key: str) -> str | None:
        """Return the documented key that this one is."""
        return next((name for name, pattern in self._known if pattern.fullmatch(key)), None)


def _pattern(key: str) -> str:
    # The braces of a partition are part of the key: a hash tag. Other names in braces stand for anything.
    parts = re.split(r"(\{\w+\})", key)
    return "".join(
        {"{p}": r"\{\d+\}"}.get(part, "[^:]+") if part.startswith("{") else re.escape(part) for part in parts
    )

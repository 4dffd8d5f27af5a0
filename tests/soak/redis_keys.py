"""The keys that Redis may contain: those documented in the product's modules, and those of RQ."""

import re
from collections.abc import Iterable
from types import ModuleType

from event_stream.streams import stream_keys
from workers.dispatch import dispatcher
from workers.drain import circuit_breaker, drain_mark
from workers.jobs import lease
from workers.maintenance import verify_jobs, verify_pass, verify_results
from workers.telemetry import apply_rates, batch_metrics, dead_letter_sources, progress, write_probe

DOCUMENTING_MODULES = (
    stream_keys,
    circuit_breaker,
    drain_mark,
    dispatcher,
    progress,
    lease,
    apply_rates,
    batch_metrics,
    dead_letter_sources,
    verify_results,
    verify_pass,
    verify_jobs,
    write_probe,
)
# RQ does not document its keys; these are all that it creates for our queue.
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


def documented(modules: Iterable[ModuleType] = DOCUMENTING_MODULES) -> list[str]:
    """Return the keys that the modules' docstrings list, such as `events:{p}`."""
    return [key for module in modules for key in _DOCUMENTED.findall(module.__doc__ or "")]


class KeyPatterns:
    """Matches keys with documented key patterns."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._known = [(key, re.compile(_pattern(key))) for key in sorted(keys)]

    def match(self, key: str) -> str | None:
        """Return the documented pattern of a key; None if there is none."""
        return next((name for name, pattern in self._known if pattern.fullmatch(key)), None)


def _pattern(key: str) -> str:
    # The braces around a partition are part of the key (a hash tag). Other names in braces are placeholders.
    parts = re.split(r"(\{\w+\})", key)
    return "".join(
        {"{p}": r"\{\d+\}"}.get(part, "[^:]+") if part.startswith("{") else re.escape(part) for part in parts
    )

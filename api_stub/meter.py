"""What this process's API has done: requests by route and status, and how long each took."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
NO_ROUTE = "none"


@dataclass(slots=True)
class Timing:
    """How many requests took up to each of BOUNDS_S, and longer than the one before it; the last took longer still."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, took_s: float) -> None:
        """Count a request."""
        self.counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.sum_s += took_s


class Meter:
    """Times requests by route template and status, of which there are few, whatever is asked for.

    For one event loop, which never takes two steps at once; so nothing is locked.
    """

    def __init__(self) -> None:
        self.timings: dict[tuple[str, int], Timing] = {}

    def on(self, app: ASGIApp, templates: Iterable[str]) -> ASGIApp:
        """Return an application that answers as `app` does; its requests are timed, under the template they match."""
        patterns = {template: compile_path(template)[0] for template in templates}

        async def metered(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500  # what the server answers where the application does not

            async def note_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            began_s = perf_counter()
            try:
                await app(scope, receive, note_status)
            finally:
                self._timing(_route(patterns, scope["path"]), status).add(perf_counter() - began_s)

        return metered

    def _timing(self, route: str, status: int) -> Timing:
        timing = self.timings.get((route, status))
        if timing is None:
            timing = self.timings[route, status] = Timing()
        return timing


def _route(patterns: Mapping[str, re.Pattern[str]], path: str) -> str:
    if path in patterns:
        return path
    return next((template for template, pattern in patterns.items() if pattern.match(path)), NO_ROUTE)

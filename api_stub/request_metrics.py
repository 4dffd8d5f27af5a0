"""Request metrics of this API process: the latencies of requests by route and status."""

from bisect import bisect_left
from dataclasses import dataclass, field
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROUTE_TEMPLATE = "template"  # the key in an ASGI scope at which the application stores the route's path template
NO_ROUTE = "none"


@dataclass(slots=True)
class LatencyHistogram:
    """Request counts by latency: one bucket for each of LATENCY_BOUNDS_S, and one for longer requests."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, latency_s: float) -> None:
        """Count a request."""
        self.counts[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        self.sum_s += latency_s


class RequestMetrics:
    """Measures requests by route template and status. Unknown paths share one label, so labels are few.

    Only one event loop may use it, so it needs no lock.
    """

    def __init__(self) -> None:
        self.histograms: dict[tuple[str, int], LatencyHistogram] = {}

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return an application that behaves like `app` and measures its requests."""

        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500  # the server's response if the application sends none

            async def note_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            began_s = perf_counter()
            try:
                await app(scope, receive, note_status)
            finally:
                self._histogram(scope.get(ROUTE_TEMPLATE, NO_ROUTE), status).add(perf_counter() - began_s)

        return measured

    def _histogram(self, route: str, status: int) -> LatencyHistogram:
        histogram = self.histograms.get((route, status))
        if histogram is None:
            histogram = self.histograms[route, status] = LatencyHistogram()
        return histogram

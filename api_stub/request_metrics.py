"""What this process's API has done: requests by route and status, and how long each took."""

from bisect import bisect_left
from dataclasses import dataclass, field
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TEMPLATE = "template"  # where an application leaves in a request's scope which route answers it
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

    def on(self, app: ASGIApp) -> ASGIApp:
        """Return an application that answers as `app` does, and times its requests by the template that `app` names."""

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
                self._timing(scope.get(TEMPLATE, NO_ROUTE), status).add(perf_counter() - began_s)

        return metered

    def _timing(self, route: str, status: int) -> Timing:
        timing = self.timings.get((route, status))
        if timing is None:
            timing = self.timings[route, status] = Timing()
        return timing

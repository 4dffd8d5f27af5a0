"""Requests are timed by route template and status, for any path and any outcome."""

from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api_stub.app import Route, application
from api_stub.request_metrics import LATENCY_BOUNDS_S, LatencyHistogram, RequestMetrics

pytestmark = pytest.mark.anyio
ROUTES = ["/projects/{slug}/stats", "/healthz"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def answer(request: Request) -> Response:
    return Response("", int(request.query_params.get("status", "200")))


async def ask(meter: RequestMetrics, *paths: str) -> None:
    app = meter.wrap(application([Route(path, answer) for path in ROUTES]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in paths:
            await client.get(path)


def counts(meter: RequestMetrics) -> dict[tuple[str, int], int]:
    return {label: sum(timing.counts) for label, timing in meter.histograms.items()}


async def test_requests_count_under_their_template_and_status() -> None:
    meter = RequestMetrics()
    await ask(meter, "/projects/a/stats", "/projects/b/stats", "/projects/c/stats?status=503", "/healthz")
    assert counts(meter) == {(ROUTES[0], 200): 2, (ROUTES[0], 503): 1, ("/healthz", 200): 1}
    assert all(timing.sum_s > 0 for timing in meter.histograms.values())


async def test_all_unknown_paths_count_as_one_route() -> None:
    meter = RequestMetrics()
    await ask(meter, *(f"/{number}" for number in range(50)), "/projects/a/b/stats", "/healthz/")
    assert counts(meter) == {("none", 404): 52}


async def test_a_request_whose_handler_fails_counts_as_a_500() -> None:
    async def fails(_request: Request) -> Response:
        raise ValueError

    meter = RequestMetrics()
    app = meter.wrap(application([Route("/healthz", fails)]))
    with pytest.raises(ValueError):
        await app({"type": "http", "path": "/healthz", "method": "GET"}, _none, _none)
    assert counts(meter) == {("/healthz", 500): 1}


async def test_connections_other_than_http_requests_are_not_timed() -> None:
    meter, seen = RequestMetrics(), []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await meter.wrap(app)({"type": "lifespan"}, _none, _none)
    assert (seen, meter.histograms) == (["lifespan"], {})


async def _none(*_: object) -> Any:
    return None


@pytest.mark.parametrize(("took_s", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (10.0, 12), (11.0, 13)])
def test_a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed(took_s: float, bucket: int) -> None:
    timing = LatencyHistogram()
    timing.add(took_s)
    expected = [int(index == bucket) for index in range(len(LATENCY_BOUNDS_S) + 1)]
    assert timing.counts == expected

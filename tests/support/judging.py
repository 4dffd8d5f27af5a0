"""Whether all is well in the end: the law of G1 against Redis's own count, and every answer against the oracle."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio

from tests.support.driving import Api, assert_answers_equal, checkpoints, dump, log_size, totals
from tests.support.events import NOW_US
from tests.support.oracle import Oracle
from workers.runtime import Runtime


def assert_all_is_well(
    runtime: Runtime, accepted: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> dict[str, int]:
    """Fail unless each of `accepted` counts once and nothing is under way or lost; return the counters."""
    made = {(event["tenantid"], event["id"]): event for event in accepted}
    ends = runtime.stream.ends()
    for at in checkpoints(runtime):
        end = ends[at.partition]
        assert at.read == at.applied + at.duplicates + at.parked
        assert end.position is None or at.position == end.position
        assert at.added_before + end.added == at.read + at.lost
    counted = totals(runtime)
    assert (counted["applied"], log_size(runtime.reader), counted["lost"]) == (len(made), len(made), 0)
    tenants = {tenant for tenant, _ in made}
    assert {row[0] for rows in dump(runtime.reader).values() for row in rows} <= tenants
    assert_reads_equal(runtime, made.values(), now_us, hours)
    return counted


def assert_reads_equal(
    runtime: Runtime, accepted: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> None:
    """Fail unless both answers of every project are the oracle's at a moment."""
    oracle = Oracle()
    for event in accepted:
        oracle.add(event)
    api = Api(runtime.writer, runtime.reader)
    api.now_us = now_us
    keys = {tenant: api.key(tenant) for tenant, _ in oracle.projects()}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        assert response.status_code in {200, 404}, response.text
        return response.json().get("data")

    try:
        compare = partial(assert_answers_equal, oracle, ask, lambda: now_us, hours)
        assert anyio.run(compare) >= len(oracle.projects())
    finally:
        api.close()

"""The progress of a verification pass, stored in Redis so that any worker can continue it.

If Redis loses it, the next pass starts anew.

Keys:

    projector:verify:remaining   list  JSON: the running pass, then the partitions and tenants still to be verified
"""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from redis import Redis

from workers.maintenance.verify_results import RESULTS_KEY

REMAINING_KEY = "projector:verify:remaining"


class VerificationPass(BaseModel):
    """What a pass covers: the numbers after `since` and up to `until` of each partition's log, and its tenants.

    `after` is the last of the unchanged tenants that it covers; the next pass continues after it.
    """

    since: dict[int, int] = {}
    until: dict[int, int] = {}
    after: str = ""
    tenants: int = 0
    skipped: int = 0


def is_running(redis: Redis) -> bool:
    """Return whether a pass has started and not finished."""
    return bool(redis.exists(REMAINING_KEY))


def start(redis: Redis, started: VerificationPass, items: Iterable[int | str]) -> None:
    """Start a pass over the given items: partition numbers and tenant ids."""
    with redis.pipeline() as pipe:
        pipe.delete(REMAINING_KEY)
        pipe.rpush(REMAINING_KEY, started.model_dump_json(), *map(json.dumps, items))
        pipe.execute()


def take_next(redis: Redis) -> tuple[VerificationPass, int | str | None]:
    """Remove and return the next item of the running pass: a partition number, a tenant id, or None at the end."""
    client: Any = redis
    stored, length = client.lindex(REMAINING_KEY, 0), client.llen(REMAINING_KEY)
    item = client.rpop(REMAINING_KEY) if length > 1 else None
    return VerificationPass.model_validate_json(stored or b"{}"), None if item is None else json.loads(item)


def put_back(redis: Redis, item: int | str) -> None:
    """Return an item to the running pass, for the next job."""
    redis.rpush(REMAINING_KEY, json.dumps(item))


def count_skipped(redis: Redis, running: VerificationPass) -> None:
    """Count a tenant that was skipped because it took too long."""
    counted = running.model_copy(update={"skipped": running.skipped + 1})
    redis.lset(REMAINING_KEY, 0, counted.model_dump_json())


def finish(redis: Redis, finished: VerificationPass, at_ms: int) -> None:
    """Store what a pass covered, and end it."""
    numbers = {f"verified_up_to:{partition}": number for partition, number in finished.until.items()}
    results: Any = {
        "finished_ms": at_ms,
        "tenants": finished.tenants,
        "skipped_tenants": finished.skipped,
        "last_tenant": finished.after,
    }
    with redis.pipeline() as pipe:
        pipe.hset(RESULTS_KEY, mapping=results | numbers)
        pipe.delete(REMAINING_KEY)
        pipe.execute()

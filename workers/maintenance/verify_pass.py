"""The progress of a verification pass, stored in Redis so that any worker can continue it.

If Redis loses it, the next pass starts anew.

Keys:

    projector:verify:remaining   list  JSON: the running pass, then the partitions and tenants still to be verified
    projector:verify:unlooked    hash  JSON of a partition or tenant that was taken and not looked at yet: since when,
                                       in ms since 1970. If its worker is killed or its statement takes too long, it
                                       stays there, and the next pass covers it again
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel
from redis import Redis

from workers.maintenance.verify_results import RESULTS_KEY

REMAINING_KEY = "projector:verify:remaining"
UNLOOKED_KEY = "projector:verify:unlooked"
OVERDUE_AFTER_S = 3600
# In one step, so that an item is in the list or in the hash whenever the worker is killed.
_TAKE_NEXT = """
if redis.call('LLEN', KEYS[1]) < 2 then return false end
local item = redis.call('RPOP', KEYS[1])
redis.call('HSETNX', KEYS[2], item, redis.call('TIME')[1] * 1000)
return item
"""


class Overdue(NamedTuple):
    """Tenants and partitions' logs that verification should have looked at more than OVERDUE_AFTER_S ago."""

    tenants: int
    logs: list[int]


class VerificationPass(BaseModel):
    """What a pass covers: the numbers after `since` and up to `until` of each partition's log, and its tenants.

    `after` is the last of the unchanged tenants that it covers; the next pass continues after it.
    """

    since: dict[int, int] = {}
    until: dict[int, int] = {}
    after: str = ""
    started_ms: int = 0
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
    """Return the next item of the running pass: a partition number, a tenant id, or None at the end.

    It counts as not looked at until `looked_at`.
    """
    client: Any = redis
    stored = client.lindex(REMAINING_KEY, 0)
    item = client.eval(_TAKE_NEXT, 2, REMAINING_KEY, UNLOOKED_KEY)
    return VerificationPass.model_validate_json(stored or b"{}"), None if item is None else json.loads(item)


def looked_at(redis: Redis, item: int | str) -> None:
    """Record that an item was looked at to its end."""
    redis.hdel(UNLOOKED_KEY, json.dumps(item))


def put_back(redis: Redis, item: int | str) -> None:
    """Return an item to the running pass, for the next job."""
    redis.rpush(REMAINING_KEY, json.dumps(item))


def read_unlooked(redis: Redis) -> list[int | str]:
    """Return the items that earlier passes took and did not look at."""
    stored: Any = redis.hkeys(UNLOOKED_KEY)
    return [json.loads(item) for item in stored]


def read_overdue(redis: Redis) -> Overdue:
    """Return what has not been looked at for too long: taken by a pass and not done, or still in an old pass."""
    client: Any = redis
    before_ms = client.time()[0] * 1000 - OVERDUE_AFTER_S * 1000
    overdue = {item for item, since_ms in client.hgetall(UNLOOKED_KEY).items() if int(since_ms) < before_ms}
    stored = client.lindex(REMAINING_KEY, 0)
    if stored and VerificationPass.model_validate_json(stored).started_ms < before_ms:
        overdue |= {*client.lrange(REMAINING_KEY, 1, -1)}
    items = [json.loads(item) for item in overdue]
    logs = sorted(item for item in items if isinstance(item, int))
    return Overdue(len(items) - len(logs), logs)


def store_progress(redis: Redis, running: VerificationPass) -> None:
    """Store what has changed in the running pass."""
    redis.lset(REMAINING_KEY, 0, running.model_dump_json())


def finish(redis: Redis, finished: VerificationPass, at_ms: int) -> None:
    """Store what a pass covered, and end it."""
    results: Any = {
        "finished_ms": at_ms,
        "tenants": finished.tenants,
        "skipped_tenants": finished.skipped,
        "last_tenant": finished.after,
    }
    with redis.pipeline() as pipe:
        pipe.hset(RESULTS_KEY, mapping=results)
        pipe.delete(REMAINING_KEY)
        pipe.execute()

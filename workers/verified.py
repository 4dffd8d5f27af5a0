"""What was found when read models were verified, for every command and check to see; and what is still to be done.

It stands in Redis only, as it can be found again.

Keys:

    projector:verified       hash  `at_ms`, `tenants`, `skipped`: when the last pass ended, and over what; `after`: the
                                   tenant behind which the next goes on with those at rest; `until:<p>`: the number up
                                   to which a partition's log was looked at; `log:<p>`: what is wrong with that log
    projector:verified:sums  hash  the tenants whose sums are not those of the log: of how many rows
    projector:verified:rows  hash  the tenants with rows that are not what the log gives: how many
    projector:verify         list  what a pass has still to look at, as JSON; its first entry says how it ends
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel
from redis import Redis

from workers.told import Told

KEY = "projector:verified"
LEFT_KEY = "projector:verify"
TENANTS_TOLD_MAX = 1_000
Means: TypeAlias = Literal["sums", "rows"]
MEANS: tuple[Means, ...] = ("sums", "rows")


class Verified(BaseModel):
    """What the last passes found. `at_ms` is None before the first one has ended.

    `skipped` is how many tenants or logs had so many events that adding them up took too long; `logs` says of
    partitions by number what is wrong with their logs.
    """

    at_ms: Annotated[int | None, Told("ms", "When the last pass ended, since 1970; null before the first has.")] = None
    tenants: Annotated[int, Told("tenants", "How many it looked at.")] = 0
    skipped: Annotated[int, Told("tenants", "How many it left out, as adding up their events took too long.")] = 0
    wrong_tenants: Annotated[int, Told("tenants", "How many have rows that are not what the event log says.")] = 0
    wrong_rows: Annotated[int, Told("rows", "How many such rows there are.")] = 0
    logs: Annotated[dict[int, str], Told("", "What is wrong with the log of a partition, by its number.")] = {}


class Pass(BaseModel):
    """What a pass looks at: the numbers of each partition `since` and `until`, tenants at rest up to `after`."""

    since: dict[int, int] = {}
    until: dict[int, int] = {}
    after: str = ""
    tenants: int = 0
    skipped: int = 0


def read(redis: Redis) -> Verified:
    """Return what was found; raises what Redis raises."""
    told, *wrong = _read(redis)
    rows = {name: max(int(each.get(name, 0)) for each in wrong) for each in wrong for name in each}
    return Verified(
        at_ms=int(told["at_ms"]) if "at_ms" in told else None,
        tenants=int(told.get("tenants", 0)),
        skipped=int(told.get("skipped", 0)),
        wrong_tenants=len(rows),
        wrong_rows=sum(rows.values()),
        logs={int(name): text for name, text in _of(told, "log")},
    )


def read_wrong(redis: Redis) -> set[str]:
    """Return the tenants that were found to be wrong."""
    _, *wrong = _read(redis)
    return {name for each in wrong for name in each}


def read_last(redis: Redis) -> tuple[dict[int, int], str]:
    """Return up to where the last pass looked: the number of each partition whose log is whole, and the tenant."""
    told, *_ = _read(redis)
    faulty = {name for name, _ in _of(told, "log")}
    until = {int(name): int(number) for name, number in _of(told, "until") if name not in faulty}
    return until, told.get("after", "")


def note_tenant(redis: Redis, tenant_id: str, wrong: Mapping[Means, int]) -> None:
    """Tell how many of a tenant's rows are wrong, by each of the means that were tried."""
    client: Any = redis
    for means, rows in wrong.items():
        if not rows:
            client.hdel(f"{KEY}:{means}", tenant_id)
        elif client.hlen(f"{KEY}:{means}") < TENANTS_TOLD_MAX:
            client.hset(f"{KEY}:{means}", tenant_id, rows)


def note_log(redis: Redis, partition: int, fault: str | None) -> None:
    """Tell what is wrong with a partition's log, if anything is."""
    client: Any = redis
    if fault is None:
        client.hdel(KEY, f"log:{partition}")
    else:
        client.hset(KEY, f"log:{partition}", fault)


def is_under_way(redis: Redis) -> bool:
    """Return whether a pass was begun and has not ended."""
    return bool(redis.exists(LEFT_KEY))


def begin_pass(redis: Redis, begun: Pass, whole: Iterable[int | str]) -> None:
    """Note what is to be looked at: partitions and tenants."""
    with redis.pipeline() as pipe:
        pipe.delete(LEFT_KEY)
        pipe.rpush(LEFT_KEY, begun.model_dump_json(), *map(json.dumps, whole))
        pipe.execute()


def take_next(redis: Redis) -> tuple[Pass, int | str | None]:
    """Take what is to be looked at next, None at the end."""
    client: Any = redis
    begun, left = client.lindex(LEFT_KEY, 0), client.llen(LEFT_KEY)
    each = client.rpop(LEFT_KEY) if left > 1 else None
    return Pass.model_validate_json(begun or b"{}"), None if each is None else json.loads(each)


def put_back(redis: Redis, each: int | str) -> None:
    """Let the next job look at it."""
    redis.rpush(LEFT_KEY, json.dumps(each))


def count_skipped(redis: Redis, under_way: Pass) -> None:
    """Note that one took too long."""
    skipped = under_way.model_copy(update={"skipped": under_way.skipped + 1})
    redis.lset(LEFT_KEY, 0, skipped.model_dump_json())


def end_pass(redis: Redis, ended: Pass, at_ms: int) -> None:
    """Tell that a pass has ended, and over what."""
    until = {f"until:{partition}": number for partition, number in ended.until.items()}
    told: Any = {"at_ms": at_ms, "tenants": ended.tenants, "skipped": ended.skipped, "after": ended.after}
    with redis.pipeline() as pipe:
        pipe.hset(KEY, mapping=told | until)
        pipe.delete(LEFT_KEY)
        pipe.execute()


def _read(redis: Redis) -> Sequence[dict[str, str]]:
    with redis.pipeline() as pipe:
        pipe.hgetall(KEY)
        for means in MEANS:
            pipe.hgetall(f"{KEY}:{means}")
        return [{name.decode(): value.decode() for name, value in each.items()} for each in pipe.execute()]


def _of(told: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    return [(name.partition(":")[2], value) for name, value in told.items() if name.startswith(f"{kind}:")]

"""What was found when read models were verified, for every command and check to see; and what is still to be done.

It stands in Redis only, as it can be found again.

Keys:

    projector:verify:results     hash  `finished_ms`, `tenants`, `skipped_tenants`: the last pass; `last_tenant`: the
                                       unchanged tenant after which the next pass continues; `verified_up_to:<p>`: the
                                       last verified number of a partition's log; `log_error:<p>`: what is wrong in it
    projector:verify:wrong-sums  hash  tenant id: number of rows whose checksums differ from the log's
    projector:verify:wrong-rows  hash  tenant id: number of rows that differ from what the log gives
    projector:verify:remaining   list  JSON: the running pass, then the partitions and tenants still to be verified
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field
from redis import Redis

KEY = "projector:verify:results"
WRONG_KEY = "projector:verify:wrong-"  # followed by one of MEANS
LEFT_KEY = "projector:verify:remaining"
TENANTS_TOLD_MAX = 1_000
Means: TypeAlias = Literal["sums", "rows"]
MEANS: tuple[Means, ...] = ("sums", "rows")


class Verified(BaseModel):
    """What the last passes found."""

    finished_ms: Annotated[
        int | None,
        Field(description="When the last pass finished, in milliseconds since 1970; null before the first one has."),
    ] = None
    tenants: Annotated[int, Field(description="Tenants that the pass covered.")] = 0
    skipped_tenants: Annotated[
        int,
        Field(description="Tenants that the pass left out because summing up their events took too long."),
    ] = 0
    mismatched_tenants: Annotated[int, Field(description="Tenants with rows that differ from the event log.")] = 0
    mismatched_rows: Annotated[int, Field(description="Rows that differ from the event log.")] = 0
    log_errors: Annotated[
        dict[int, str],
        Field(description="Partitions whose event log is incomplete, each with what is wrong."),
    ] = {}


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
        finished_ms=int(told["finished_ms"]) if "finished_ms" in told else None,
        tenants=int(told.get("tenants", 0)),
        skipped_tenants=int(told.get("skipped_tenants", 0)),
        mismatched_tenants=len(rows),
        mismatched_rows=sum(rows.values()),
        log_errors={int(name): text for name, text in _of(told, "log_error")},
    )


def read_wrong(redis: Redis) -> set[str]:
    """Return the tenants that were found to be wrong."""
    _, *wrong = _read(redis)
    return {name for each in wrong for name in each}


def read_last(redis: Redis) -> tuple[dict[int, int], str]:
    """Return up to where the last pass looked: the number of each partition whose log is whole, and the tenant."""
    told, *_ = _read(redis)
    faulty = {name for name, _ in _of(told, "log_error")}
    until = {int(name): int(number) for name, number in _of(told, "verified_up_to") if name not in faulty}
    return until, told.get("last_tenant", "")


def note_tenant(redis: Redis, tenant_id: str, wrong: Mapping[Means, int]) -> None:
    """Tell how many of a tenant's rows are wrong, by each of the means that were tried."""
    client: Any = redis
    for means, rows in wrong.items():
        if not rows:
            client.hdel(f"{WRONG_KEY}{means}", tenant_id)
        elif client.hlen(f"{WRONG_KEY}{means}") < TENANTS_TOLD_MAX:
            client.hset(f"{WRONG_KEY}{means}", tenant_id, rows)


def note_log(redis: Redis, partition: int, fault: str | None) -> None:
    """Tell what is wrong with a partition's log, if anything is."""
    client: Any = redis
    if fault is None:
        client.hdel(KEY, f"log_error:{partition}")
    else:
        client.hset(KEY, f"log_error:{partition}", fault)


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
    until = {f"verified_up_to:{partition}": number for partition, number in ended.until.items()}
    told: Any = {
        "finished_ms": at_ms,
        "tenants": ended.tenants,
        "skipped_tenants": ended.skipped,
        "last_tenant": ended.after,
    }
    with redis.pipeline() as pipe:
        pipe.hset(KEY, mapping=told | until)
        pipe.delete(LEFT_KEY)
        pipe.execute()


def _read(redis: Redis) -> Sequence[dict[str, str]]:
    with redis.pipeline() as pipe:
        pipe.hgetall(KEY)
        for means in MEANS:
            pipe.hgetall(f"{WRONG_KEY}{means}")
        return [{name.decode(): value.decode() for name, value in each.items()} for each in pipe.execute()]


def _of(told: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    return [(name.partition(":")[2], value) for name, value in told.items() if name.startswith(f"{kind}:")]

"""What was found the last time that read models were verified, for every command and check to see.

It is told to Redis only, as it can be found again; one that forgets is told anew within VERIFY_EVERY_S.

Keys:

    projector:verified        hash  `at_ms`, `tenants`, `skipped`: when the last pass ended and over what; `after`: the
                                    tenant at which the next goes on with those at rest; `until:<p>`: the number up to
                                    which a partition's log was looked at; `log:<p>`: what is wrong with that log
    projector:verified:wrong  hash  the tenants with rows that are not what the log says: how many
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from redis import Redis

KEY = "projector:verified"
WRONG_KEY = "projector:verified:wrong"
VERIFY_EVERY_S = 300
TENANTS_TOLD_MAX = 1_000
_AFTER, _AT_MS, _TENANTS, _SKIPPED = "after", "at_ms", "tenants", "skipped"


class Verified(BaseModel):
    """What the last passes found. `at_ms` is None before the first one has ended.

    `skipped` is how many tenants had so many events that summing them up took too long; `logs` says of partitions by
    number what is wrong with their logs.
    """

    at_ms: int | None = None
    tenants: int = 0
    skipped: int = 0
    wrong_tenants: int = 0
    wrong_rows: int = 0
    logs: dict[int, str] = {}


class Pass(BaseModel):
    """Where a pass begins: behind which number of each partition, behind which of the tenants at rest."""

    until: dict[int, int] = {}
    after: str = ""


def read(redis: Redis) -> Verified:
    """Return what was found; raises what Redis raises."""
    told, wrong = _read(redis)
    return Verified(
        at_ms=int(told[_AT_MS]) if _AT_MS in told else None,
        tenants=int(told.get(_TENANTS, 0)),
        skipped=int(told.get(_SKIPPED, 0)),
        wrong_tenants=len(wrong),
        wrong_rows=sum(map(int, wrong.values())),
        logs={int(name): text for name, text in _of(told, "log")},
    )


def read_start(redis: Redis) -> tuple[Pass, list[str]]:
    """Return where the next pass begins, and the tenants that were found to be wrong."""
    told, wrong = _read(redis)
    until = {int(name): int(number) for name, number in _of(told, "until")}
    return Pass(until=until, after=told.get(_AFTER, "")), list(wrong)


def note_tenant(redis: Redis, tenant_id: str, wrong_rows: int) -> None:
    """Tell how many of a tenant's rows are not what the log says."""
    client: Any = redis
    if not wrong_rows:
        client.hdel(WRONG_KEY, tenant_id)
    elif client.hlen(WRONG_KEY) < TENANTS_TOLD_MAX:
        client.hset(WRONG_KEY, tenant_id, wrong_rows)


def note_log(redis: Redis, partition: int, fault: str | None) -> None:
    """Tell what is wrong with a partition's log, if anything is."""
    client: Any = redis
    if fault is None:
        client.hdel(KEY, f"log:{partition}")
    else:
        client.hset(KEY, f"log:{partition}", fault)


def note_pass(redis: Redis, ended: Pass, at_ms: int, tenants: int, skipped: int) -> None:
    """Tell that a pass has ended: over how many tenants, and where the next begins."""
    until = {f"until:{partition}": number for partition, number in ended.until.items()}
    told = {_AT_MS: at_ms, _TENANTS: tenants, _SKIPPED: skipped, _AFTER: ended.after, **until}
    client: Any = redis
    client.hset(KEY, mapping=told)


def _read(redis: Redis) -> tuple[dict[str, str], dict[str, str]]:
    with redis.pipeline() as pipe:
        pipe.hgetall(KEY)
        pipe.hgetall(WRONG_KEY)
        told, wrong = ({name.decode(): value.decode() for name, value in each.items()} for each in pipe.execute())
    return told, wrong


def _of(told: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    return [(name.partition(":")[2], value) for name, value in told.items() if name.startswith(f"{kind}:")]

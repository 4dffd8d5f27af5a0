"""The results of verification, stored in Redis for `projector status`, the health check and the metrics.

Results are kept in Redis only, because verification can find them again.

Keys:

    projector:verify:results     hash  `finished_ms`, `tenants`, `skipped_tenants`: the last pass; `last_tenant`: the
                                       unchanged tenant after which the next pass continues; `verified_up_to:<p>`: the
                                       last verified number of a partition's log; `log_error:<p>`: what is wrong in it
    projector:verify:wrong-sums  hash  tenant id: number of rows whose checksums differ from the log's
    projector:verify:wrong-rows  hash  tenant id: number of rows that differ from what the log gives
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field
from redis import Redis

RESULTS_KEY = "projector:verify:results"
MISMATCHES_KEY = "projector:verify:wrong-"  # followed by a method
TENANTS_MAX = 1_000  # mismatched tenants stored per method
Method: TypeAlias = Literal["sums", "rows"]
METHODS: tuple[Method, ...] = ("sums", "rows")
"""`sums` compares row checksums with the log; `rows` folds the log and compares whole rows."""


class VerificationSummary(BaseModel):
    """What the last passes found."""

    finished_ms: int | None = Field(
        default=None,
        description="When the last pass finished, in milliseconds since 1970; null before the first one has.",
    )
    tenants: int = Field(default=0, description="Tenants that the pass covered.")
    skipped_tenants: int = Field(
        default=0,
        description="Tenants that the pass skipped because computing their checksums took too long.",
    )
    mismatched_tenants: int = Field(default=0, description="Tenants with rows that differ from the event log.")
    mismatched_rows: int = Field(default=0, description="Rows that differ from the event log.")
    overdue_tenants: int = Field(
        default=0, description="Tenants that verification has not looked at for more than an hour."
    )
    overdue_logs: list[int] = Field(
        default=[], description="Partitions whose event log verification has not looked at for more than an hour."
    )
    log_errors: dict[int, str] = Field(
        default={},
        description="Partitions whose event log is incomplete, each with what is wrong.",
    )


def read(redis: Redis) -> VerificationSummary:
    """Return the stored results; raises RedisError."""
    results, *mismatches = _read_hashes(redis)
    rows = {name: max(int(found.get(name, 0)) for found in mismatches) for found in mismatches for name in found}
    return VerificationSummary(
        finished_ms=int(results["finished_ms"]) if "finished_ms" in results else None,
        tenants=int(results.get("tenants", 0)),
        skipped_tenants=int(results.get("skipped_tenants", 0)),
        mismatched_tenants=len(rows),
        mismatched_rows=sum(rows.values()),
        log_errors={int(name): text for name, text in _with_prefix(results, "log_error")},
    )


def read_mismatched_tenants(redis: Redis) -> set[str]:
    """Return the tenants with rows that differ from the log."""
    _, *mismatches = _read_hashes(redis)
    return {name for found in mismatches for name in found}


def read_verified_up_to(redis: Redis) -> tuple[dict[int, int], str]:
    """Return where the last pass stopped: the number in each partition's log, and the last unchanged tenant.

    Partitions whose log has an error are left out, so that the next pass verifies them from the beginning.
    """
    results, *_ = _read_hashes(redis)
    faulty = {name for name, _ in _with_prefix(results, "log_error")}
    numbers = {int(name): int(number) for name, number in _with_prefix(results, "verified_up_to") if name not in faulty}
    return numbers, results.get("last_tenant", "")


def store_tenant(redis: Redis, tenant_id: str, mismatched_rows: Mapping[Method, int]) -> None:
    """Store how many rows of a tenant differ, for each method that was used; 0 removes the tenant."""
    client: Any = redis
    for method, rows in mismatched_rows.items():
        if not rows:
            client.hdel(f"{MISMATCHES_KEY}{method}", tenant_id)
        elif client.hlen(f"{MISMATCHES_KEY}{method}") < TENANTS_MAX:
            client.hset(f"{MISMATCHES_KEY}{method}", tenant_id, rows)


def store_log(redis: Redis, partition: int, error: str | None) -> None:
    """Store what is wrong in a partition's log; None removes an earlier error."""
    client: Any = redis
    if error is None:
        client.hdel(RESULTS_KEY, f"log_error:{partition}")
    else:
        client.hset(RESULTS_KEY, f"log_error:{partition}", error)


def store_verified_up_to(redis: Redis, partition: int, number: int) -> None:
    """Store up to which number a partition's log was verified without an error."""
    redis.hset(RESULTS_KEY, f"verified_up_to:{partition}", str(number))


def _read_hashes(redis: Redis) -> Sequence[dict[str, str]]:
    """Return the results, followed by the mismatches of each method."""
    with redis.pipeline(transaction=False) as pipe:  # a full Redis refuses transactions, even those that only read
        pipe.hgetall(RESULTS_KEY)
        for method in METHODS:
            pipe.hgetall(f"{MISMATCHES_KEY}{method}")
        return [{name.decode(): value.decode() for name, value in found.items()} for found in pipe.execute()]


def _with_prefix(results: Mapping[str, str], prefix: str) -> list[tuple[str, str]]:
    """Return the fields `<prefix>:<name>` of the results, without the prefix."""
    return [(name.partition(":")[2], value) for name, value in results.items() if name.startswith(f"{prefix}:")]

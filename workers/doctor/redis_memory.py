"""Checks whether Redis may remove events because its memory is full."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context


@error_check(
    "redis-may-evict",
    Subject.REDIS,
    "G1",
    meaning="When its memory is full, Redis may remove keys, including streams with entries that are not read yet.",
    remedy="`redis-cli CONFIG SET maxmemory-policy noeviction`, and `maxmemory-policy noeviction` in its configuration"
    " file; give other applications a Redis of their own",
)
def may_evict(context: Context) -> Iterator[Observation]:
    """Check what Redis does when its memory is full."""
    policy = context.info("maxmemory_policy")
    if policy != "noeviction":
        yield Observation(f"maxmemory-policy is {policy}, maxmemory {int(context.info('maxmemory')):,} bytes")


@error_check(
    "redis-evicted",
    Subject.REDIS,
    "G1",
    meaning="Since it was started, Redis has removed keys because its memory was full. Streams may be among them.",
    remedy="set `maxmemory-policy noeviction`, let producers append again what they still have (duplicates count once),"
    " then run `redis-cli CONFIG RESETSTAT`",
)
def evicted(context: Context) -> Iterator[Observation]:
    """Check whether any key was evicted."""
    if int(context.info("evicted_keys")):
        yield Observation(f"evicted_keys is {int(context.info('evicted_keys')):,}")


@warning_check(
    "redis-nearly-full",
    Subject.REDIS,
    "G7",
    meaning="Redis's memory is nearly full. With `noeviction` it will refuse events and the heartbeats of workers.",
    remedy="`redis-cli CONFIG SET maxmemory <bytes>` with a larger value; if a backlog fills it, start more workers",
)
def nearly_full(context: Context) -> Iterator[Observation]:
    """Compare the used memory with the limit."""
    used, limit = int(context.info("used_memory")), int(context.info("maxmemory"))
    if limit and used > context.limits.memory_used_share * limit:
        yield Observation(f"used_memory is {used:,} of maxmemory {limit:,} bytes")

"""Checks whether Redis keeps acknowledged events on disk."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context


@error_check(
    "redis-aof-off",
    Subject.REDIS,
    "G1",
    meaning="Redis writes no append-only file. When it ends, the events since its last snapshot are lost.",
    remedy="`redis-cli CONFIG SET appendonly yes`, and `appendonly yes` in its configuration file",
)
def append_only_file_off(context: Context) -> Iterator[Observation]:
    """Check whether there is an append-only file."""
    if not int(context.info("aof_enabled")):
        yield Observation("aof_enabled is 0")


@error_check(
    "redis-aof-failing",
    Subject.REDIS,
    "G1",
    meaning="Redis cannot write its append-only file. It refuses writes, and may lose the latest events.",
    remedy="free space on the disk that holds the file, or correct its permissions; Redis's log names the cause, and"
    " Redis retries by itself",
)
def append_only_file_failing(context: Context) -> Iterator[Observation]:
    """Check whether the last write to the append-only file succeeded."""
    if context.info("aof_last_write_status") != "ok":
        yield Observation(f"aof_last_write_status is {context.info('aof_last_write_status')}")


@error_check(
    "redis-fsync-no",
    Subject.REDIS,
    "G1",
    meaning="The operating system decides when the append-only file reaches the disk. A crash of the machine may lose"
    " half a minute of events.",
    remedy="`redis-cli CONFIG SET appendfsync always`, and `appendfsync always` in its configuration file",
)
def fsync_no(context: Context) -> Iterator[Observation]:
    """Check whether the append-only file is synced at all."""
    yield from _fsync_is("no", context)


@warning_check(
    "redis-fsync-everysec",
    Subject.REDIS,
    "G1",
    meaning="Redis syncs once a second. A crash of the machine, or killing Redis during a slow sync, may lose up to two"
    " seconds of events.",
    remedy="`redis-cli CONFIG SET appendfsync always`, and `appendfsync always` in its configuration file, unless you"
    " accept the loss of two seconds",
)
def fsync_every_second(context: Context) -> Iterator[Observation]:
    """Check whether the append-only file is synced only once a second."""
    yield from _fsync_is("everysec", context)


def _fsync_is(value: str, context: Context) -> Iterator[Observation]:
    if int(context.info("aof_enabled")) and context.redis_setting("appendfsync") == value:
        yield Observation(f"appendfsync is {value}")

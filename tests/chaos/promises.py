"""Checks of the guarantees in docs/explanation/guarantees.md on the state after a run."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from event_stream.streams.entries import StreamEnd
from event_stream.streams.stream_keys import stream_key
from projections.transaction import event_log
from projections.transaction.checkpoint import Checkpoint
from tests.chaos.plan import PARTITIONS, Sent
from tests.support.api_client import count_equal_answers
from tests.support.harness import assert_dead_letters_are_counted, checkpoints, dump, stored_dead_letters
from tests.support.oracle import Oracle, identity
from workers.drain.batch_size import ENTRIES_MAX, BatchSize
from workers.drain.drainer import Drainer
from workers.runtime import Runtime

# Redis trims whole nodes of a stream: up to one node remains, and the checkpoint's own entry.
LENGTH_MAX = 101
KEYS_OF_A_PARTITION = ("events:{%d}", "events:{%d}:projected", "events:{%d}:projected-count")
KEYS_THAT_EXPIRE = (
    *(
        "projector:drain-lease:{%d}",
        "projector:recent-progress:{%d}",
        "projector:applied-per-10s:{%d}",
        "projector:last-failure:{%d}",
        "projector:large-batch:{%d}",
        "projector:dead-letter-sources:{%d}",
    ),
)
KEYS_OF_ALL = {
    "events:partitions",
    "events:deployment",
    "events:database",
    "projector:write-probe",
    "projector:dispatcher-heartbeats",
    "projector:batch-metrics",
    "projector:waiting-since",
    *(
        "projector:verify:scheduled",
        "projector:verify:remaining",
        "projector:verify:unlooked",
        "projector:verify:results",
        "projector:verify:wrong-sums",
    ),
}
JOBS_MAX = 2 * PARTITIONS + 1  # drains, and one verification


class BrokenPromiseError(AssertionError):
    """A run broke a guarantee."""


@dataclass
class Evidence:
    """The state after a run: the deployment, all entries sent to it, and what was observed during the run."""

    runtime: Runtime
    undisturbed: Runtime
    sent: list[Sent]
    drained: bool
    trimmed: bool
    queued_max: int
    killed: int
    reads: int
    read_problems: list[str]

    @cached_property
    def accepted(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The distinct valid events, each as it was sent first."""
        events = [entry.event for entry in self.sent if entry.event is not None]
        return {identity(event): event for event in reversed(events)}

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        return checkpoints(self.runtime)

    @cached_property
    def ends(self) -> list[StreamEnd]:
        return self.runtime.stream.ends()

    @cached_property
    def log(self) -> list[tuple[Any, ...]]:
        return dump(self.runtime.reader, [event_log.table])["event_log"]

    @cached_property
    def read_models(self) -> dict[str, list[tuple[Any, ...]]]:
        return dump(self.runtime.reader)


def nothing_is_lost(found: Evidence) -> None:
    """G1: the counters add up to those of Redis, and each acknowledged entry is in the log or a dead letter."""
    for at, end in zip(found.checkpoints, found.ends, strict=True):
        _expect(at.read, at.applied + at.duplicates + at.dead_lettered, f"partition {at.partition}: read")
        _expect(end.added, at.read + at.lost, f"partition {at.partition}: added")
        _expect(at.lost, 0, f"partition {at.partition}: lost")
    _expect({(row[0], row[1]) for row in found.log}, set(found.accepted), "events in the log")
    refused = {(entry.reason, sha256(entry.body).hexdigest()) for entry in found.sent if entry.reason is not None}
    stored = stored_dead_letters(found.runtime)
    _expect({(dead_letter.reason, dead_letter.body_sha256) for dead_letter in stored}, refused, "dead letters")
    assert_dead_letters_are_counted(found.runtime)
    parked = sum(at.dead_lettered for at in found.checkpoints)
    _expect(sum(dead_letter.times_seen for dead_letter in stored), parked, "times that dead letters were seen")


def each_event_counts_once(found: Evidence) -> None:
    """G2: applied once, numbered without a gap, counted once."""
    _expect(sum(at.applied for at in found.checkpoints), len(found.accepted), "applied")
    for at in found.checkpoints:
        numbers = sorted(row[3] for row in found.log if row[2] == at.partition)
        _expect(numbers, list(range(1, at.applied + 1)), f"numbers of partition {at.partition}")
    _expect([json.loads(row[-1]) for row in found.log], [found.accepted[row[0], row[1]] for row in found.log], "bodies")


def an_undisturbed_drain_produces_identical_rows(found: Evidence) -> None:
    """G3: the read models equal those of the same events drained without faults into an empty database."""
    owner = {id(entry.event): entry for entry in found.sent if entry.event is not None}
    found.undisturbed.stream.append(
        [(owner[id(event)].partition, owner[id(event)].body) for event in found.accepted.values()]
    )
    for partition in range(PARTITIONS):
        while not Drainer(found.undisturbed, partition, BatchSize(count=ENTRIES_MAX)).step():
            pass
    for table, rows in dump(found.undisturbed.reader).items():
        _expect(found.read_models[table], rows, f"rows of {table}")


def answers_equal_the_oracle(found: Evidence) -> None:
    """G2, G3, G4: both reads of every project equal the oracle's answers."""
    oracle = Oracle(found.accepted.values())
    compared = count_equal_answers(found.runtime, oracle, hours=240)
    if compared < len(oracle.projects()):
        raise BrokenPromiseError(f"only {compared} answers for {len(oracle.projects())} projects")


def no_row_of_an_unknown_tenant(found: Evidence) -> None:
    """G5: rows belong only to tenants that an accepted event names."""
    named = {tenant for tenant, _ in found.accepted}
    for table, rows in found.read_models.items():
        foreign = {row[0] for row in rows} - named
        _expect(foreign, set(), f"tenants in {table} without an event")


def it_recovers_by_itself(found: Evidence) -> None:
    """G7: the lag returned to zero with no action other than restarting dead processes."""
    _expect(found.drained, True, "drained in time")


def everything_is_bounded(found: Evidence) -> None:
    """G8: the queue, the streams and the keys are bounded."""
    _expect(found.queued_max <= JOBS_MAX, True, f"a queue of {found.queued_max} is short")
    _expect(found.trimmed, True, f"streams of {[end.length for end in found.ends]} are trimmed")
    redis = found.runtime.stream.redis
    keys = Counter(_kind(key.decode()) for key in redis.scan_iter())
    lasting = {pattern % partition for partition in range(PARTITIONS) for pattern in KEYS_OF_A_PARTITION}
    expiring = {pattern % partition for partition in range(PARTITIONS) for pattern in KEYS_THAT_EXPIRE}
    known = lasting | expiring | KEYS_OF_ALL
    _expect({key for key in keys if not key.startswith("rq:")} - known, set(), "unknown keys")
    # RQ keeps the job of a killed worker until it expires.
    _expect(keys["rq:job"] <= JOBS_MAX + found.killed, True, f"{keys['rq:job']} jobs are few")


def readers_are_answered(found: Evidence) -> None:
    """G8: slow clients of the API take nothing from other readers."""
    _expect(found.read_problems, [], "reads without an answer")
    _expect(found.reads > 0, True, "reads were answered")


RECOVERY = "G7 the lag returns to zero"
PROMISES: dict[str, Callable[[Evidence], None]] = {
    "G1 nothing is lost": nothing_is_lost,
    "G2 each event counts once": each_event_counts_once,
    "G3 an undisturbed drain produces identical rows": an_undisturbed_drain_produces_identical_rows,
    "G2–G4 answers equal the oracle's": answers_equal_the_oracle,
    "G5 no row belongs to an unknown tenant": no_row_of_an_unknown_tenant,
    RECOVERY: it_recovers_by_itself,
    "G8 queue, streams and keys are bounded": everything_is_bounded,
    "G8 readers are answered": readers_are_answered,
}


def broken_promises(found: Evidence) -> dict[str, str]:
    """Return the broken guarantees, each with its evidence."""
    shown: dict[str, str] = {}
    for name, check in PROMISES.items():
        try:
            check(found)
        except AssertionError as error:
            shown[name] = str(error) or "an answer differs from the oracle's"
    return shown


def is_drained(runtime: Runtime, at_least: int) -> bool:
    """Whether all entries, and at least `at_least`, were read, by the counters of Redis and the checkpoints."""
    added = [_added(runtime, partition) for partition in range(PARTITIONS)]
    return sum(added) >= at_least and added == [at.read + at.lost for at in checkpoints(runtime)]


def is_trimmed(runtime: Runtime) -> bool:
    """Whether every stream has been trimmed."""
    return all(end.length <= LENGTH_MAX for end in runtime.stream.ends())


def _added(runtime: Runtime, partition: int) -> int:
    key = stream_key(partition)
    info: Any = runtime.stream.redis.xinfo_stream(key) if runtime.stream.redis.exists(key) else {"entries-added": 0}
    return int(info["entries-added"])


def _kind(key: str) -> str:
    return ":".join(key.split(":")[:2]) if key.startswith("rq:") else key


def _expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise BrokenPromiseError(f"{what}: {_difference(found, expected)}")


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, set):
        more, less = sorted(map(str, found - expected)), sorted(map(str, expected - found))
        return f"{len(more)} too many {more[:2]}, {len(less)} missing {less[:2]}"
    return f"{str(found)[:200]} is not {str(expected)[:200]}"

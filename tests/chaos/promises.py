"""The promises of docs/reference/events.md#guarantees, as what a run left behind has to show them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from event_stream.entries import StreamEnd
from event_stream.stream import stream_key
from projections.transaction import event_log
from projections.transaction.checkpoint import Checkpoint
from tests.chaos.plan import PARTITIONS, Sent
from tests.support.driving import checkpoints, count_equal_answers, dump, letters
from tests.support.oracle import Oracle
from workers.drain.batch_size import ENTRIES_MAX, BatchSize
from workers.drain.drainer import Drainer
from workers.runtime import Runtime

# Redis trims whole nodes of a stream: as many entries as one may hold stay, and the checkpoint's own.
LENGTH_MAX = 101
KEYS_OF_A_PARTITION = ("events:{%d}", "events:{%d}:projected", "events:{%d}:projected-count")
KEYS_THAT_EXPIRE = (
    *(
        "projector:drain-lease:{%d}",
        "projector:recent-progress:{%d}",
        "projector:applied-per-10s:{%d}",
        "projector:last-failure:{%d}",
    ),
)
KEYS_OF_ALL = {
    "events:partitions",
    "projector:dispatcher-heartbeats",
    "projector:batch-metrics",
    *(
        "projector:verify:scheduled",
        "projector:verify:remaining",
        "projector:verify:results",
        "projector:verify:wrong-sums",
    ),
}
JOBS_MAX = 2 * PARTITIONS + 1  # drains, and one that verifies


class BrokenPromiseError(AssertionError):
    """A run shows that a promise does not hold."""


@dataclass
class Evidence:
    """What a run left behind: the deployment, all that was sent to it, and what was seen of it meanwhile."""

    runtime: Runtime
    calm: Runtime
    sent: list[Sent]
    drained: bool
    trimmed: bool
    queued_max: int
    killed: int

    @cached_property
    def accepted(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The distinct valid events, in the order in which they were sent first."""
        events = [entry.event for entry in self.sent if entry.event is not None]
        return {(event["tenantid"], event["id"]): event for event in reversed(events)}

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
    """G1: the law, against Redis's own counter, and each entry that was acknowledged is in the log or a letter."""
    for at, end in zip(found.checkpoints, found.ends, strict=True):
        _expect(at.read, at.applied + at.duplicates + at.dead_lettered, f"partition {at.partition}: read")
        _expect(end.added, at.read + at.lost, f"partition {at.partition}: added")
        _expect(at.lost, 0, f"partition {at.partition}: lost")
    _expect({(row[0], row[1]) for row in found.log}, set(found.accepted), "events in the log")
    refused = {(entry.reason, sha256(entry.body).hexdigest()) for entry in found.sent if entry.reason is not None}
    stored = letters(found.runtime)
    _expect({(letter.reason, letter.body_sha256) for letter in stored}, refused, "dead letters")
    parked = sum(at.dead_lettered for at in found.checkpoints)
    _expect(sum(letter.times_seen for letter in stored), parked, "times that letters were seen")


def each_event_counts_once(found: Evidence) -> None:
    """G2: applied once, numbered without a gap, counted once."""
    _expect(sum(at.applied for at in found.checkpoints), len(found.accepted), "applied")
    for at in found.checkpoints:
        numbers = sorted(row[3] for row in found.log if row[2] == at.partition)
        _expect(numbers, list(range(1, at.applied + 1)), f"numbers of partition {at.partition}")
    _expect([json.loads(row[-1]) for row in found.log], [found.accepted[row[0], row[1]] for row in found.log], "bodies")


def a_calm_drain_gives_the_same_bytes(found: Evidence) -> None:
    """G3: the read models are those of the same events, drained in peace into an empty database."""
    home = {id(entry.event): entry for entry in found.sent if entry.event is not None}
    found.calm.stream.append([(home[id(event)].partition, home[id(event)].body) for event in found.accepted.values()])
    for partition in range(PARTITIONS):
        while not Drainer(found.calm, partition, BatchSize(count=ENTRIES_MAX)).step():
            pass
    for table, rows in dump(found.calm.reader).items():
        _expect(found.read_models[table], rows, f"rows of {table}")


def answers_are_the_oracles(found: Evidence) -> None:
    """G2, G3, G4: both reads of every project are what the contract says of these events."""
    oracle = Oracle(found.accepted.values())
    compared = count_equal_answers(found.runtime, oracle, hours=240)
    if compared < len(oracle.projects()):
        raise BrokenPromiseError(f"only {compared} answers for {len(oracle.projects())} projects")


def no_row_is_anothers(found: Evidence) -> None:
    """G5: rows are of tenants that an accepted event names."""
    named = {tenant for tenant, _ in found.accepted}
    for table, rows in found.read_models.items():
        foreign = {row[0] for row in rows} - named
        _expect(foreign, set(), f"tenants in {table} that nobody named")


def it_recovers_by_itself(found: Evidence) -> None:
    """G7: the lag came back to zero, with nobody doing more than to restart what had died."""
    _expect(found.drained, True, "drained in time")


def everything_is_bounded(found: Evidence) -> None:
    """G8: the queue, the streams and the keys."""
    _expect(found.queued_max <= JOBS_MAX, True, f"a queue of {found.queued_max} is short")
    _expect(found.trimmed, True, f"streams of {[end.length for end in found.ends]} are trimmed")
    redis = found.runtime.stream.redis
    keys = Counter(_kind(key.decode()) for key in redis.scan_iter())
    lasting = {pattern % partition for partition in range(PARTITIONS) for pattern in KEYS_OF_A_PARTITION}
    expiring = {pattern % partition for partition in range(PARTITIONS) for pattern in KEYS_THAT_EXPIRE}
    known = lasting | expiring | KEYS_OF_ALL
    _expect({key for key in keys if not key.startswith("rq:")} - known, set(), "keys that nobody knows")
    # What a killed worker leaves behind, RQ keeps until it expires.
    _expect(keys["rq:job"] <= JOBS_MAX + found.killed, True, f"{keys['rq:job']} jobs are few")


RECOVERY = "G7 the lag returns to zero"
PROMISES: dict[str, Callable[[Evidence], None]] = {
    "G1 nothing is lost": nothing_is_lost,
    "G2 each event counts once": each_event_counts_once,
    "G3 a calm drain gives the same bytes": a_calm_drain_gives_the_same_bytes,
    "G2–G4 the answers are the oracle's": answers_are_the_oracles,
    "G5 no row is another tenant's": no_row_is_anothers,
    RECOVERY: it_recovers_by_itself,
    "G8 queue, streams and keys are bounded": everything_is_bounded,
}


def broken(found: Evidence) -> dict[str, str]:
    """Return the promises that do not hold, and what shows it."""
    shown: dict[str, str] = {}
    for name, check in PROMISES.items():
        try:
            check(found)
        except AssertionError as error:
            shown[name] = str(error) or "an answer is not the oracle's"
    return shown


def is_drained(runtime: Runtime, at_least: int) -> bool:
    """Return whether all of at least so many entries were read: Redis's own counters against the checkpoints'."""
    added = [_added(runtime, partition) for partition in range(PARTITIONS)]
    return sum(added) >= at_least and added == [at.read + at.lost for at in checkpoints(runtime)]


def is_trimmed(runtime: Runtime) -> bool:
    """Return whether no stream is longer than what Redis keeps of a trimmed one."""
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

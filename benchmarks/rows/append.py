"""How fast a producer appends events, compared with plain XADD in a pipeline."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import workloads
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal
from benchmarks.sandbox import Sandbox
from benchmarks.workloads import PARTITIONS
from event_stream import Producer
from event_stream.events.encoding import encode
from event_stream.events.event import partition_of
from event_stream.settings import StreamSettings
from event_stream.streams.entries import EVENT_FIELD
from event_stream.streams.stream_keys import stream_key

_EVENTS_PER_CALL = 1_000


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    events = list(workloads.standard_mix(sandbox.size.append_events))
    chunks = [events[first : first + _EVENTS_PER_CALL] for first in range(0, len(events), _EVENTS_PER_CALL)]
    raw = [[_entry(each) for each in chunk] for chunk in chunks]
    # Otherwise the contestant that creates more objects would pay for garbage collections of this benchmark's data.
    gc.collect()
    gc.freeze()

    def append_many() -> Figures:
        sandbox.clear()
        producer = Producer.from_url(sandbox.redis.url, StreamSettings(partitions=PARTITIONS))
        began = time.perf_counter()
        for chunk in chunks:
            producer.append_many(chunk)
        return {"events/s": len(events) / (time.perf_counter() - began)}

    def pipelined() -> Figures:
        sandbox.clear()
        began = time.perf_counter()
        for chunk in raw:
            with sandbox.client.pipeline(transaction=False) as pipe:
                for key, body in chunk:
                    pipe.xadd(key, {EVENT_FIELD: body})
                pipe.execute()
        return {"events/s": len(events) / (time.perf_counter() - began)}

    try:
        yield {"append_many": append_many, "pipelined XADD": pipelined}
    finally:
        gc.unfreeze()
    sandbox.clear()


def _entry(event: dict[str, Any]) -> tuple[str, bytes]:
    return stream_key(partition_of(event["tenantid"], PARTITIONS)), encode(event)


row = BenchmarkRow(
    "append",
    "Producer.append_many, 1,000 events at a time",
    (Goal("events/s", "append_many", "pipelined XADD", at_least=0.6),),
    _contestants,
)

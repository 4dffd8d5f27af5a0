"""How fast a producer appends, beside a pipeline of XADD alone."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import mixes
from benchmarks.mixes import PARTITIONS
from benchmarks.place import Place
from benchmarks.row import Contestants, Figures, Goal, Row
from event_stream import Producer
from event_stream.entries import EVENT_FIELD
from event_stream.event_types import partition_of
from event_stream.producer import encode
from event_stream.settings import StreamSettings
from event_stream.stream import stream_key

_AT_ONCE = 1_000


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    events = list(mixes.standard(place.size.appended))
    chunks = [events[first : first + _AT_ONCE] for first in range(0, len(events), _AT_ONCE)]
    raw = [[_entry(each) for each in chunk] for chunk in chunks]
    # Or whoever makes more objects would pay for the collector's walks through what only this benchmark holds.
    gc.collect()
    gc.freeze()

    def append_many() -> Figures:
        place.clear()
        producer = Producer.from_url(place.redis.url, StreamSettings(partitions=PARTITIONS))
        began = time.perf_counter()
        for chunk in chunks:
            producer.append_many(chunk)
        return {"events/s": len(events) / (time.perf_counter() - began)}

    def pipelined() -> Figures:
        place.clear()
        began = time.perf_counter()
        for chunk in raw:
            with place.client.pipeline(transaction=False) as pipe:
                for key, body in chunk:
                    pipe.xadd(key, {EVENT_FIELD: body})
                pipe.execute()
        return {"events/s": len(events) / (time.perf_counter() - began)}

    try:
        yield {"append_many": append_many, "pipelined XADD": pipelined}
    finally:
        gc.unfreeze()
    place.clear()


def _entry(event: dict[str, Any]) -> tuple[str, bytes]:
    return stream_key(partition_of(event["tenantid"], PARTITIONS)), encode(event)


row = Row(
    "append",
    "Producer.append_many, 1,000 events at a time",
    (Goal("events/s", "append_many", "pipelined XADD", at_least=0.6),),
    _contestants,
)

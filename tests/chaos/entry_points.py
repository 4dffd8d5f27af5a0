"""Entry points of the processes of a run: the Procfile's commands, and a producer that resumes after a kill.

They are forked from a server that has imported everything once. A fresh interpreter would need most of a second, a third
of a whole run.
"""

import os
import pickle
import random
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

import cli.commands.api
import cli.connections
import workers.dispatch.dispatcher
import workers.dispatch.trimmer
import workers.drain.batch_size
import workers.jobs.queue
from cli.main import projector
from event_stream.producer import Prepared, Producer
from event_stream.settings import StreamSettings
from tests.chaos.plan import PARTITIONS
from tests.support.failpoints import POINTS

BATCH = 20
PAUSE_S = 0.03
LINGER_S = 0.03


def command(name: str, environ: dict[str, str], log: Path) -> None:
    """Run `projector <name>` in this process."""
    _begin(environ, log)
    projector([name], standalone_mode=False)


def produce(traffic: Path, environ: dict[str, str], log: Path, progress: Path) -> None:
    """Append the entries of a file in batches; records acknowledged batches and repeats the others."""
    _begin(environ, log)
    entries: list[Prepared] = pickle.loads(traffic.read_bytes())
    producer: Producer | None = None
    acknowledged = appended(progress)
    while acknowledged < len(entries):
        batch = entries[acknowledged : acknowledged + BATCH]
        try:
            producer = producer or Producer.from_url(environ["REDIS_URL"], StreamSettings(partitions=PARTITIONS))
            producer.send(batch)
        except RedisError as error:
            print("producer:", error, file=sys.stderr)
            producer = None
        else:
            acknowledged += len(batch)
            draft = progress.with_suffix(".new")
            draft.write_text(str(acknowledged))
            draft.replace(progress)
        time.sleep(PAUSE_S)


def appended(progress: Path) -> int:
    """Return how many entries the producer has had acknowledged."""
    return int(progress.read_text()) if progress.exists() else 0


def _begin(environ: dict[str, str], log: Path) -> None:
    os.environ.update(environ)
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    _shorten_timers()
    _slow_down_drains()


def _slow_down_drains() -> None:
    """Pause drains briefly at each failpoint, so that random faults often hit them between two steps."""
    for owner, name, _ in POINTS.values():
        setattr(owner, name, _lingering(getattr(owner, name)))


def _lingering(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(wrapped)
    def call(*arguments: Any, **options: Any) -> Any:
        result = wrapped(*arguments, **options)
        time.sleep(random.uniform(0, LINGER_S))
        return result

    return call


def _shorten_timers() -> None:
    """Shorten the product's intervals, so that a run of seconds covers what takes minutes in production."""
    workers.jobs.lease.LEASE_S = 0.5
    workers.drain.batch_size.BACK_OFF_MAX_S = 0.5
    workers.dispatch.dispatcher.IDLE_SWEEP_S = 0.1
    workers.dispatch.dispatcher.OUTAGE_PAUSE_S = 0.1
    workers.dispatch.trimmer.TRIM_AFTER_S = 0.4
    workers.dispatch.trimmer.TRIM_EVERY_S = 0.1
    cli.connections.RETRY_S = 0.1

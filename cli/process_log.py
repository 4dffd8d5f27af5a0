"""The log lines with which a process of the Procfile starts and stops."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import structlog

from event_stream.streams.deployment import redis_place
from projections.transaction.deployment_table import database_place
from workers.runtime import Runtime

log = structlog.get_logger()


@contextmanager
def logged_process(name: str, runtime: Runtime, addresses: Sequence[tuple[str, int]] = ()) -> Iterator[None]:
    """Log one line when a process starts its work, with the servers that it works for, and one when it stops."""
    listens_on = {"address": ", ".join(f"{host}:{port}" for host, port in addresses)} if addresses else {}
    log.info(
        "process.started",
        process=name,
        version=version("projector"),
        **listens_on,
        database=database_place(runtime.writer),
        redis=redis_place(runtime.stream.redis),
        partitions=runtime.stream.partitions,
    )
    try:
        yield
    finally:
        log.info("process.stopped", process=name)

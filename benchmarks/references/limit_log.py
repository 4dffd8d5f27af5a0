"""limit-log: writes decoded events to the log table by binary COPY, after a lookup of their identities.

No projector that keeps a log can be faster: it neither reads from Redis, nor decodes, nor folds.
"""

import gc
import time
from typing import Any

import psycopg

from benchmarks.row import Figures, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.workloads import BacklogEntry
from event_stream.events.decoding import decode

BATCH = 2_000
_LOGGED = """
SELECT l.tenant_id, l.event_id FROM unnest(%s::text[], %s::text[]) AS k (tenant_id, event_id)
JOIN event_log l ON l.tenant_id = k.tenant_id AND l.event_id = k.event_id
"""
_COPY = """
COPY event_log (tenant_id, event_id, partition, number, type, project_id, time_us, body) FROM STDIN (FORMAT BINARY)
"""
_TYPES = ("text", "text", "int4", "int8", "text", "text", "int8", "bytea")


def limit_log(sandbox: Sandbox, backlog: list[BacklogEntry]) -> Measurement:
    """Return its measurement on an empty PostgreSQL database."""
    rows = [_row(number, *entry) for number, entry in enumerate(sorted(backlog, key=lambda entry: entry[0]), start=1)]

    def measure() -> Figures:
        gc.freeze()  # otherwise the garbage collector would scan these rows during the measurement
        with sandbox.database() as url, psycopg.connect(url) as connection:
            started = time.perf_counter()
            for first in range(0, len(rows), BATCH):
                _write(connection, rows[first : first + BATCH])
            return {"events/s": len(rows) / (time.perf_counter() - started)}

    return measure


def _row(number: int, partition: int, raw: bytes) -> tuple[Any, ...]:
    event = decode(raw)
    return (event.tenant_id, event.id, partition, number, event.type, event.project_id, event.time_us, raw)


def _write(connection: psycopg.Connection, rows: list[tuple[Any, ...]]) -> None:
    logged = connection.execute(_LOGGED, [[row[0] for row in rows], [row[1] for row in rows]]).fetchall()
    logged_identities = {tuple(identity) for identity in logged}
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            if row[:2] not in logged_identities:
                copy.write_row(row)
    connection.commit()

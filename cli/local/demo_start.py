"""The start of the demo of `projector up --demo`: appends its history, starts its traffic and makes an API key."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from cli import environment
from cli.connections import make_producer
from cli.local import demo
from cli.local.startup import Startup
from cli.output import CliError
from event_stream.events.decoding import decode_all
from event_stream.events.encoding import encode
from event_stream.events.event import Identity
from event_stream.settings import StreamSettings
from event_stream.streams.appending import Appended
from event_stream.streams.stream import Stream
from projections.database.engines import writer_engine
from projections.transaction import event_log
from workers.runtime import redis_client

_LOOKUPS = 2_000


def start_demo(startup: Startup, directory: Path) -> str | None:
    """Start the demo and wait until reads show its history.

    Returns an API key of the main tenant, or None if `startup` was stopped before.
    """
    engine = writer_engine(startup.environ["DATABASE_URL"])
    try:
        _append_history(startup, engine)
        startup.add("demo-traffic")
        key = _api_key(engine, directory / "demo.key")
    finally:
        engine.dispose()
    return None if startup.stopping.is_set() else key


def _append_history(startup: Startup, engine: Engine) -> None:
    """Append the events of the history that were not appended before, and wait until they are projected.

    Events of an earlier start that was killed may still be in the streams. They are projected first; if that takes
    too long, some are appended again, and count as duplicates.
    """
    producer = make_producer(startup.environ)
    partitions = StreamSettings.from_environ(startup.environ).partitions
    stream = Stream(redis_client(startup.environ["REDIS_URL"]), partitions)
    ends = [Appended(number, end.position) for number, end in enumerate(stream.ends()) if end.position is not None]
    with suppress(CliError):
        startup.wait_until(lambda: all(map(producer.is_projected, ends)), "earlier entries were not projected")
    with engine.connect() as connection:
        missing = _missing(connection, list(demo.history(time.time_ns() // 1000)))
    if startup.stopping.is_set():
        return
    appended = producer.append_many(missing)
    last = {position.partition: position for position in appended}.values()
    startup.wait_until(
        lambda: all(map(producer.is_projected, last)), "the demo's history was not projected; see `projector status`"
    )


def _missing(connection: Connection, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that are not in the event log."""
    identities = [event.identity for event in decode_all([encode(event) for event in events])]
    known: set[Identity] = set()
    for first in range(0, len(identities), _LOOKUPS):
        known |= event_log.find_bodies(connection, identities[first : first + _LOOKUPS]).keys()
    return [event for event, identity in zip(events, identities, strict=True) if identity not in known]


def _api_key(engine: Engine, file: Path) -> str:
    """Return the API key in `file` if it is valid, else make a new one and store it there."""
    with engine.begin() as connection:
        text = file.read_text().strip() if file.is_file() else ""
        if _is_valid(connection, text):
            return text
        permissions, now_us = frozenset({"config:read"}), time.time_ns() // 1000
        text, _ = keys.create(connection, KeyKind.ORG, demo.MAIN_TENANT.id, None, permissions, now_us)
        # Before the commit: if this process is killed in between, no key is left that nobody knows.
        environment.write_secret(file, text + "\n")
    return text


def _is_valid(connection: Connection, text: str) -> bool:
    parsed = keys.parse(text)
    found = keys.find_many(connection, [parsed.key_id]).get(parsed.key_id) if parsed else None
    return parsed is not None and found is not None and found.revoked_us is None and found.has_secret(parsed.secret)

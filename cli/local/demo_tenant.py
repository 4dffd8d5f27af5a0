"""The demo tenant of `projector up --demo`: appends its history, starts its traffic and makes its API key."""

import time
from pathlib import Path

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from cli import environment
from cli.connections import make_producer
from cli.local import demo
from cli.local.startup import Startup
from projections.database.engines import writer_engine


def start_demo(startup: Startup, directory: Path) -> str | None:
    """Start the demo and wait until reads show its history. Returns the tenant's API key, or None if stopped before."""
    producer = make_producer(startup.environ)
    last = producer.append_many(demo.history(time.time_ns() // 1000))[-1]
    startup.add("demo-traffic")
    key = _api_key(startup.environ["DATABASE_URL"], directory / "demo.key")
    startup.wait_until(
        lambda: producer.is_projected(last), "the demo's history was not projected; see `projector status`"
    )
    return None if startup.stopping.is_set() else key


def _api_key(database_url: str, file: Path) -> str:
    """Return the demo tenant's API key from `file`, or make a new one and store it there."""
    engine = writer_engine(database_url)
    with engine.begin() as connection:
        stored = keys.parse(file.read_text().strip()) if file.is_file() else None
        if stored is not None and keys.find_many(connection, [stored.key_id]):
            return file.read_text().strip()
        permissions = frozenset({"config:read"})
        text, _ = keys.create(connection, KeyKind.ORG, demo.TENANT, None, permissions, time.time_ns() // 1000)
    environment.write_secret(file, text + "\n")
    return text

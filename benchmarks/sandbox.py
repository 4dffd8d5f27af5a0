"""The sandbox that a benchmark runs in: durable servers, new databases from templates, and real processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

import psycopg
from redis import Redis

from benchmarks import workloads
from benchmarks.size import Size
from benchmarks.workloads import PARTITIONS, BacklogEntry
from event_stream.streams.stream import Stream
from event_stream.streams.stream_keys import stream_key
from migrations import migrate_database
from projections.settings import DatabaseSettings
from tests.support.servers import PostgresServer, RedisServer

_EMPTY = "bench_empty"
_ENTRIES_PER_APPEND = 1_000


@dataclass
class Sandbox:
    """A Redis that syncs every write, a PostgreSQL with its durable defaults, and a folder."""

    size: Size
    redis: RedisServer
    postgres: PostgresServer
    directory: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _appended: list[BacklogEntry] | None = None

    @cached_property
    def client(self) -> Redis:
        """A Redis client."""
        return Redis.from_url(self.redis.url)

    @cached_property
    def stream(self) -> Stream:
        """The event streams."""
        return Stream(self.client, PARTITIONS)

    @cached_property
    def standard_mix(self) -> list[BacklogEntry]:
        """The backlog of most rows."""
        return workloads.stream_entries(workloads.standard_mix(self.size.events))

    @contextmanager
    def database(self, template: str = _EMPTY) -> Iterator[str]:
        """Create a PostgreSQL database from a template, by default one with the projector's schema and no rows."""
        if template == _EMPTY:
            self._create_empty_template()
        name = f"bench_{next(self._numbers)}"
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.postgres.url(name)
        finally:
            self.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _create_empty_template(self) -> None:
        with psycopg.connect(self.postgres.url()) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_EMPTY]).fetchone():
                return
        self.postgres.execute(f"CREATE DATABASE {_EMPTY}")
        migrate(self.postgres.url(_EMPTY))

    @contextmanager
    def sqlite(self) -> Iterator[str]:
        """Create an SQLite database with the projector's schema."""
        file = self.directory / f"bench_{next(self._numbers)}.db"
        url = f"sqlite:///{file}"
        migrate(url)
        try:
            yield url
        finally:
            for each in self.directory.glob(f"{file.name}*"):
                each.unlink()

    def load_backlog(self, backlog: list[BacklogEntry]) -> None:
        """Make this backlog the only content of Redis."""
        if self._appended is not backlog or self._stream_length() != len(backlog):
            self.client.flushall()
            self.append(backlog)
            self._appended = backlog
        streams = {stream_key(partition).encode() for partition in range(PARTITIONS)}
        if other_keys := [key for key in self.client.scan_iter(count=1000) if key not in streams]:
            self.client.delete(*other_keys)

    def append(self, entries: list[BacklogEntry]) -> None:
        """Append entries. Redis does not sync each of these writes, because they are not measured."""
        self.client.config_set("appendfsync", "no")
        for first in range(0, len(entries), _ENTRIES_PER_APPEND):
            self.stream.append(entries[first : first + _ENTRIES_PER_APPEND])
        self.client.config_set("appendfsync", "always")

    def clear(self) -> None:
        """Empty Redis."""
        self.client.flushall()
        self._appended = None

    def _stream_length(self) -> int:
        return sum(end.length for end in self.stream.ends())

    @contextmanager
    def process(self, module: str, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a module as a process until the end of the block, then kill it. Its output goes to a file."""
        with (self.directory / "processes.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ
                | {
                    "REDIS_URL": self.redis.url,
                    "PROJECTOR_PARTITIONS": str(PARTITIONS),
                    "PROJECTOR_SHUTDOWN_GRACE_S": "0",
                }
                | environ,
                stdout=log,
                stderr=log,
            )
        try:
            yield started
        finally:
            started.kill()
            started.wait()

    @contextmanager
    def command(self, name: str, database_url: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command of the projector on a database until the end of the block."""
        with self.process("cli", name, DATABASE_URL=database_url, **environ) as started:
            yield started

    def log_tail(self) -> str:
        """Return the end of the processes' output."""
        file = self.directory / "processes.log"
        return file.read_text()[-2000:] if file.exists() else ""


def migrate(database_url: str) -> None:
    """Create the projector's schema in a database."""
    environ: Mapping[str, str] = {"DATABASE_URL": database_url}
    migrate_database(DatabaseSettings.from_environ(environ).database_url, PARTITIONS)


@contextmanager
def start_sandbox(size: Size) -> Iterator[Sandbox]:
    """Start the servers; stop them and remove their data at the end of the block."""
    redis, postgres = RedisServer(), PostgresServer(durable=True)
    with tempfile.TemporaryDirectory(prefix="projector-bench-") as directory:
        try:
            redis.start()
            postgres.start()
            yield Sandbox(size, redis, postgres, Path(directory))
        finally:
            redis.remove()
            postgres.remove()

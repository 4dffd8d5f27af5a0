"""Where the benchmark happens: durable servers, databases made anew in a moment, real processes."""

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

from benchmarks import mixes
from benchmarks.mixes import PARTITIONS, Entry
from benchmarks.size import Size
from cli.commands.migrate import migrate_database
from event_stream.stream import Stream, stream_key
from projections.settings import DatabaseSettings
from tests.support.servers import PostgresServer, RedisServer

_EMPTY = "bench_empty"
_APPENDED_AT_ONCE = 1_000


@dataclass
class Place:
    """One Redis that syncs every write, one PostgreSQL with its durable defaults, and a folder."""

    size: Size
    redis: RedisServer
    postgres: PostgresServer
    directory: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _appended: list[Entry] | None = None

    @cached_property
    def client(self) -> Redis:
        """A client of the Redis."""
        return Redis.from_url(self.redis.url)

    @cached_property
    def stream(self) -> Stream:
        """The streams."""
        return Stream(self.client, PARTITIONS)

    @cached_property
    def standard_mix(self) -> list[Entry]:
        """The backlog that most rows drain."""
        return mixes.entries(mixes.standard(self.size.events))

    @contextmanager
    def database(self, template: str = _EMPTY) -> Iterator[str]:
        """Make a PostgreSQL database that is like its template, an empty one with our schema by default."""
        if template == _EMPTY:
            self._empty_template()
        name = f"bench_{next(self._numbers)}"
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.postgres.url(name)
        finally:
            self.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _empty_template(self) -> None:
        with psycopg.connect(self.postgres.url()) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_EMPTY]).fetchone():
                return
        self.postgres.execute(f"CREATE DATABASE {_EMPTY}")
        migrate(self.postgres.url(_EMPTY))

    @contextmanager
    def sqlite(self) -> Iterator[str]:
        """Make a SQLite file with our schema."""
        file = self.directory / f"bench_{next(self._numbers)}.db"
        url = f"sqlite:///{file}"
        migrate(url)
        try:
            yield url
        finally:
            for each in self.directory.glob(f"{file.name}*"):
                each.unlink()

    def let_wait(self, backlog: list[Entry]) -> None:
        """Leave exactly this backlog in the streams, and nothing else in Redis."""
        if self._appended is not backlog or self._length() != len(backlog):
            self.client.flushall()
            self.append(backlog)
            self._appended = backlog
        streams = {stream_key(partition).encode() for partition in range(PARTITIONS)}
        if others := [key for key in self.client.scan_iter(count=1000) if key not in streams]:
            self.client.delete(*others)

    def append(self, entries: list[Entry]) -> None:
        """Append entries as a foreign producer does, but without waiting for the disk: nobody measures this."""
        self.client.config_set("appendfsync", "no")
        for first in range(0, len(entries), _APPENDED_AT_ONCE):
            self.stream.append(entries[first : first + _APPENDED_AT_ONCE])
        self.client.config_set("appendfsync", "always")

    def clear(self) -> None:
        """Leave nothing in Redis."""
        self.client.flushall()
        self._appended = None

    def _length(self) -> int:
        return sum(end.length for end in self.stream.ends())

    @contextmanager
    def process(self, module: str, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a module as a process; what it says goes to a file. It is killed in the end, which must lose nothing."""
        with (self.directory / "processes.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | {"REDIS_URL": self.redis.url, "PROJECTOR_PARTITIONS": str(PARTITIONS)} | environ,
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
        """Run a command of the product on a database."""
        with self.process("cli", name, DATABASE_URL=database_url, **environ) as started:
            yield started

    def said(self) -> str:
        """Return the last of what the processes said."""
        file = self.directory / "processes.log"
        return file.read_text()[-2000:] if file.exists() else ""


def migrate(database_url: str) -> None:
    """Make our schema in a database."""
    environ: Mapping[str, str] = {"DATABASE_URL": database_url}
    migrate_database(DatabaseSettings.from_environ(environ).database_url, PARTITIONS)


@contextmanager
def opened(size: Size) -> Iterator[Place]:
    """Start the servers; end them and remove all they kept."""
    redis, postgres = RedisServer(), PostgresServer(durable=True)
    with tempfile.TemporaryDirectory(prefix="projector-bench-") as directory:
        try:
            redis.start()
            postgres.start()
            yield Place(size, redis, postgres, Path(directory))
        finally:
            redis.remove()
            postgres.remove()

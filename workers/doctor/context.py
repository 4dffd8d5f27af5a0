"""What is looked at: the deployment that the environment names, asked at most once for each thing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sqlalchemy import make_url, text

from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from projections.database.engines import reader_engine, writer_engine
from projections.settings import DatabaseSettings
from workers.errors import WorkersError
from workers.jobs.queue import drain_queue
from workers.reporting.status import Status, read_status
from workers.runtime import Runtime, redis_client
from workers.settings import RedisSettings


class UnavailableError(WorkersError):
    """Redis answers, but does not tell what was asked, as some managed services do."""


@dataclass(frozen=True)
class Limits:
    """From where on something is worth a finding."""

    clock_off_s: float = 5.0
    left_open_s: float = 60.0
    lock_wait_s: float = 5.0
    untrimmed_s: float = 600.0
    disk_free_bytes: int = 2**30
    memory_used_share: float = 0.9


@dataclass(frozen=True)
class Context:
    """One deployment under examination. Nothing in it is changed, and nothing is connected before a look needs it."""

    settings: StreamSettings
    redis_url: str = field(repr=False)
    database_url: str = field(repr=False)
    data_dir: Path
    clock: Callable[[], float] = time.time
    limits: Limits = field(default_factory=Limits)
    refused: dict[str, Exception] = field(default_factory=dict)  # by code: why a check could not be made

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the deployment that the environment names; raises SettingsError."""
        database = DatabaseSettings.from_environ(environ)
        return cls(
            settings=StreamSettings.from_environ(environ),
            redis_url=RedisSettings.from_environ(environ).redis_url,
            database_url=database.database_url,
            data_dir=database.data_dir,
        )

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database; None for a server."""
        url = make_url(self.database_url)
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        return Path(url.database.removeprefix("file:"))

    @cached_property
    def stream(self) -> Stream:
        """The streams."""
        return Stream(redis_client(self.redis_url), self.settings.partitions)

    @cached_property
    def runtime(self) -> Runtime:
        """The open ends that a worker would have."""
        return Runtime(
            settings=self.settings,
            stream=self.stream,
            writer=writer_engine(self.database_url),
            reader=reader_engine(self.database_url),
            queue=drain_queue(redis_client(self.redis_url)),
        )

    @cached_property
    def status(self) -> Status:
        """What `projector status` shows, and health is judged by."""
        return read_status(self.runtime)

    @cached_property
    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.stream.redis.info()
        return info

    def info(self, name: str) -> Any:
        """Return a value of Redis's INFO; raises NotToldError if there is none of that name."""
        if not self.tells(name):
            raise UnavailableError(f"INFO does not tell {name}")
        return self._info[name]

    def tells(self, name: str) -> bool:
        """Return whether Redis's INFO has a value of this name."""
        return name in self._info

    def redis_setting(self, name: str) -> str:
        """Return a value of Redis's configuration; raises NotToldError, or Redis's refusal."""
        value = self.stream.redis.config_get(name).get(name)
        if value is None:
            raise UnavailableError(f"CONFIG GET does not tell {name}")
        return str(value)

    def scalar(self, statement: str, **parameters: object) -> Any:
        """Return the first value of a query's first row."""
        return next(iter(self.rows(statement, **parameters)), (None,))[0]

    def rows(self, statement: str, **parameters: object) -> list[Any]:
        """Return the rows of a query."""
        with self.runtime.reader.connect() as connection:
            return list(connection.execute(text(statement), parameters))

    def skew_s(self, their_time: Callable[[], float]) -> float:
        """Return how many seconds another clock is ahead of ours, less what asking may explain."""
        before = self.clock()
        theirs = their_time()
        after = self.clock()
        return max(0.0, theirs - after) + min(0.0, theirs - before)

    def close(self) -> None:
        """Close what was opened."""
        if "stream" in vars(self):
            self.stream.redis.close()
        if "runtime" in vars(self):
            self.runtime.queue.connection.close()
            self.runtime.writer.dispose()
            self.runtime.reader.dispose()

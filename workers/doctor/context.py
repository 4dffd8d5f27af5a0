"""The deployment that the doctor examines. Each part is opened or read when a check first needs it."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sqlalchemy import make_url, text

from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from projections.database.engines import report_engine, writer_engine
from projections.settings import DatabaseSettings
from workers.errors import WorkersError
from workers.jobs.queue import drain_queue
from workers.reporting.status import Status
from workers.reporting.status_reader import read_status
from workers.runtime import REPORT_DATABASE_TIMEOUT_S, Runtime, fail_fast_redis
from workers.settings import RedisSettings


class UnavailableError(WorkersError):
    """Redis responds but does not return a value, as is usual for some managed services."""


@dataclass(frozen=True)
class Limits:
    """Thresholds from which a check reports a finding."""

    clock_difference_s: float = 5.0
    transaction_open_s: float = 60.0
    lock_wait_s: float = 5.0
    untrimmed_s: float = 600.0
    text_bytes: int = 2**20  # of a text in a row of a read model
    disk_free_bytes: int = 2**30
    memory_used_share: float = 0.9


@dataclass(frozen=True)
class Context:
    """The deployment under examination. Checks read it and change nothing."""

    settings: StreamSettings
    redis_url: str = field(repr=False)
    database_url: str = field(repr=False)
    data_dir: Path
    clock: Callable[[], float] = time.time
    limits: Limits = field(default_factory=Limits)
    sqlite_version: tuple[int, int, int] = sqlite3.sqlite_version_info
    inspection_errors: dict[str, Exception] = field(default_factory=dict)  # by code of the check that failed

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the deployment that the environment variables describe; raises SettingsError."""
        database = DatabaseSettings.from_environ(environ)
        return cls(
            settings=StreamSettings.from_environ(environ),
            redis_url=RedisSettings.from_environ(environ).redis_url,
            database_url=database.database_url,
            data_dir=database.data_dir,
        )

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database; None for PostgreSQL."""
        url = make_url(self.database_url)
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        return Path(url.database.removeprefix("file:"))

    @cached_property
    def stream(self) -> Stream:
        """The event streams."""
        return Stream(fail_fast_redis(self.redis_url), self.settings.partitions)

    @cached_property
    def runtime(self) -> Runtime:
        """The connections that a worker would use."""
        return Runtime(
            settings=self.settings,
            stream=self.stream,
            writer=writer_engine(self.database_url),
            reader=report_engine(self.database_url, REPORT_DATABASE_TIMEOUT_S),
            queue=drain_queue(fail_fast_redis(self.redis_url)),
        )

    @cached_property
    def status(self) -> Status:
        """The status, as `projector status` and the health check read it."""
        return read_status(self.runtime)

    @cached_property
    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.stream.redis.info()
        return info

    def info(self, name: str) -> Any:
        """Return a field of Redis's INFO; raises UnavailableError if it is missing."""
        if not self.has_info(name):
            raise UnavailableError(f"INFO has no field {name}")
        return self._info[name]

    def has_info(self, name: str) -> bool:
        """Return whether Redis's INFO has a field of this name."""
        return name in self._info

    def redis_setting(self, name: str) -> str:
        """Return a setting of Redis; raises UnavailableError if Redis returns none, or RedisError if denied."""
        value = self.stream.redis.config_get(name).get(name)
        if value is None:
            raise UnavailableError(f"CONFIG GET returns no {name}")
        return str(value)

    def scalar(self, statement: str, **parameters: object) -> Any:
        """Return the first value of the first row of a query."""
        return next(iter(self.rows(statement, **parameters)), (None,))[0]

    def rows(self, statement: str, **parameters: object) -> list[Any]:
        """Return the rows of a query."""
        with self.runtime.reader.connect() as connection:
            return list(connection.execute(text(statement), parameters))

    def clock_difference_s(self, read_time: Callable[[], float]) -> float:
        """Return how many seconds another clock is ahead of this host's, not counting the duration of reading it."""
        before = self.clock()
        other = read_time()
        after = self.clock()
        return max(0.0, other - after) + min(0.0, other - before)

    def close(self) -> None:
        """Close the connections that were opened."""
        if "stream" in vars(self):
            self.stream.redis.close()
        if "runtime" in vars(self):
            self.runtime.queue.connection.close()
            self.runtime.writer.dispose()
            self.runtime.reader.dispose()

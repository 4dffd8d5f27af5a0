"""Runs plans one after another, each on its own servers and database, and checks the guarantees."""

import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from migrations import migrate_database
from projections.database.engines import reader_engine, writer_engine
from projections.settings import DatabaseSettings
from tests.chaos.plan import PARTITIONS, Plan, traffic
from tests.chaos.processes import Chaos
from tests.chaos.promises import RECOVERY, Evidence, broken_promises, is_drained, is_trimmed
from tests.support.harness import closing_runtime
from tests.support.servers import PostgresServer, RedisServer
from workers.jobs.queue import drain_queue
from workers.runtime import Runtime, redis_client

RECOVERY_TIMEOUT_S = 60


@dataclass(frozen=True)
class Result:
    """The result of a run: the broken guarantees, and how often each fault happened.

    `logged` counts the log lines of its processes by event; the log file stays if a guarantee was broken.
    """

    plan: Plan
    broken: dict[str, str]
    happened: Counter[str]
    logged: Counter[str]
    took_s: float
    log: Path


class Environments:
    """Resources shared by runs: a folder, a migrated SQLite file to copy, and a PostgreSQL started on demand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = count(1)
        self._postgres: PostgresServer | None = None
        self._template = directory / "template.db"
        migrate_database(f"sqlite:///{self._template}", PARTITIONS)

    @property
    def postgres(self) -> PostgresServer:
        if self._postgres is None:
            self._postgres = PostgresServer()
            self._postgres.start()
            self._postgres.execute("CREATE DATABASE migrated")
            migrate_database(_url(self._postgres.url("migrated")), PARTITIONS)
        return self._postgres

    def run(self, plan: Plan) -> Result:
        """Carry out a plan on a fresh deployment, and check every guarantee."""
        began = time.monotonic()
        directory = self.directory / f"{next(self._numbers)}-{plan.database}-{plan.seed}"
        directory.mkdir()
        redis = RedisServer()
        try:
            redis.start()
            with self._database(plan.database, directory) as url:
                chaos = Chaos(
                    plan,
                    traffic(plan.seed),
                    redis,
                    self._postgres if plan.database == "postgresql" else None,
                    url,
                    directory,
                )
                try:
                    shown = self._run_plan(chaos)
                finally:
                    chaos.end()
        finally:
            redis.remove()
        logged = Counter(re.findall(r'"event": "([a-z_.]+)"', chaos.log.read_text()))
        if not shown:
            shutil.rmtree(directory)
        return Result(plan, shown, chaos.happened, logged, time.monotonic() - began, chaos.log)

    def remove(self) -> None:
        if self._postgres is not None:
            self._postgres.remove()

    def _run_plan(self, chaos: Chaos) -> dict[str, str]:
        try:
            chaos.run()
        except AssertionError as error:
            return {RECOVERY: str(error)}
        with (
            closing_runtime(_runtime(chaos.redis.url, chaos.database_url)) as runtime,
            closing_runtime(
                _runtime(chaos.redis.url.removesuffix("0") + "1", self._sqlite(chaos.directory / "undisturbed.db"))
            ) as undisturbed,
        ):
            sent = [*chaos.sent, *chaos.huge]
            drained = chaos.wait_for(_quietly(lambda: is_drained(runtime, len(sent))), RECOVERY_TIMEOUT_S)
            trimmed = chaos.wait_for(_quietly(lambda: is_trimmed(runtime)), RECOVERY_TIMEOUT_S)
            killed = sum(role.starts for role in chaos.workers)
            chaos.end()
            return broken_promises(
                Evidence(
                    runtime,
                    undisturbed,
                    sent,
                    drained,
                    trimmed,
                    chaos.queued_max,
                    killed,
                    reads=chaos.reader.answers,
                    read_problems=chaos.reader.problems,
                )
            )

    @contextmanager
    def _database(self, kind: str, directory: Path) -> Iterator[str]:
        if kind == "sqlite":
            yield self._sqlite(directory / "projector.db")
            return
        name = f"run_{next(self._numbers)}"
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
        try:
            yield _url(self.postgres.url(name))
        finally:
            self.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _sqlite(self, file: Path) -> str:
        shutil.copyfile(self._template, file)
        return f"sqlite:///{file}"


@contextmanager
def environments() -> Iterator[Environments]:
    """Yield the shared resources; files of failed runs are kept."""
    directory = Path(tempfile.mkdtemp(prefix="projector-chaos-"))
    shared = Environments(directory)
    try:
        yield shared
    finally:
        shared.remove()
        if not any(each.is_dir() for each in directory.iterdir()):
            shutil.rmtree(directory)


def _runtime(redis_url: str, database_url: str) -> Runtime:
    return Runtime(
        settings=StreamSettings(partitions=PARTITIONS),
        stream=Stream(redis_client(redis_url), PARTITIONS),
        writer=writer_engine(database_url),
        reader=reader_engine(database_url),
        queue=drain_queue(redis_client(redis_url)),
    )


def _quietly(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Return a condition that is false while a server is down."""

    def holds() -> bool:
        with suppress(RedisError, SQLAlchemyError):
            return condition()
        return False

    return holds


def _url(url: str) -> str:
    return DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url

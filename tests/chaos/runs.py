"""One run after another: servers and databases for each, its plan, and what became of the promises."""

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

from cli.commands.migrate import migrate_database
from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from projections.database.engines import reader_engine, writer_engine
from projections.settings import DatabaseSettings
from tests.chaos.plan import PARTITIONS, Plan, traffic
from tests.chaos.processes import Chaos
from tests.chaos.promises import RECOVERY, Evidence, broken, is_drained, is_trimmed
from tests.support.driving import held_open
from tests.support.servers import PostgresServer, RedisServer
from workers.jobs.queue import drain_queue
from workers.runtime import Runtime, redis_client

RECOVERY_TIMEOUT_S = 60


@dataclass(frozen=True)
class Result:
    """What a run showed: which promises broke and how, which faults happened how often, and what that led to.

    `met` counts the log lines of its processes by their event; the log itself stays if a promise broke.
    """

    plan: Plan
    broken: dict[str, str]
    happened: Counter[str]
    met: Counter[str]
    took_s: float
    log: Path


class Grounds:
    """Where runs take place: a folder, a migrated SQLite file to copy, and a PostgreSQL that is started when needed."""

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
        """Let a plan happen to a fresh deployment, and check every promise."""
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
                    shown = self._let_happen(chaos)
                finally:
                    chaos.end()
        finally:
            redis.remove()
        met = Counter(re.findall(r'"event": "([a-z_.]+)"', chaos.log.read_text()))
        if not shown:
            shutil.rmtree(directory)
        return Result(plan, shown, chaos.happened, met, time.monotonic() - began, chaos.log)

    def remove(self) -> None:
        if self._postgres is not None:
            self._postgres.remove()

    def _let_happen(self, chaos: Chaos) -> dict[str, str]:
        try:
            chaos.run()
        except AssertionError as error:
            return {RECOVERY: str(error)}
        with (
            held_open(_runtime(chaos.redis.url, chaos.database_url)) as runtime,
            held_open(
                _runtime(chaos.redis.url.removesuffix("0") + "1", self._sqlite(chaos.directory / "calm.db"))
            ) as calm,
        ):
            drained = chaos.await_that(_quietly(lambda: is_drained(runtime, len(chaos.sent))), RECOVERY_TIMEOUT_S)
            trimmed = chaos.await_that(_quietly(lambda: is_trimmed(runtime)), RECOVERY_TIMEOUT_S)
            killed = sum(role.starts for role in chaos.workers)
            chaos.end()
            return broken(Evidence(runtime, calm, chaos.sent, drained, trimmed, chaos.queued_max, killed))

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
def grounds() -> Iterator[Grounds]:
    """Yield the grounds of many runs; what broken runs left behind stays."""
    directory = Path(tempfile.mkdtemp(prefix="projector-chaos-"))
    made = Grounds(directory)
    try:
        yield made
    finally:
        made.remove()
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
    """Return a condition that does not hold while a server is away."""

    def holds() -> bool:
        with suppress(RedisError, SQLAlchemyError):
            return condition()
        return False

    return holds


def _url(url: str) -> str:
    return DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url

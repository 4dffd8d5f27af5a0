"""The size of SQLite's write-ahead log."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from projections.database.sqlite_engine import WAL_BYTES_MAX
from tests.support.servers import wait_until
from workers.dispatch import dispatcher
from workers.dispatch.dispatcher import Dispatcher
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_log_that_grew_during_a_long_read_is_emptied_when_it_ends(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "WAL_CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(dispatcher, "IDLE_SWEEP_S", 0.05)
    file = Path(str(runtime.writer.url.database))
    log = Path(f"{file}-wal")
    stopped = threading.Event()
    dispatching = threading.Thread(target=Dispatcher(runtime).run, args=[stopped.is_set])
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM project").fetchone()
        with runtime.writer.begin() as connection:
            connection.execute(text("CREATE TABLE large (body BLOB)"))
        for _ in range(5):
            with runtime.writer.begin() as connection:
                connection.execute(text("INSERT INTO large VALUES (randomblob(4000000))"))
        grown = log.stat().st_size
        assert grown > 2 * WAL_BYTES_MAX
        dispatching.start()
        try:
            wait_until(lambda: runtime.stream.redis.exists(dispatcher.HEARTBEATS_KEY), "the dispatcher has swept")
            assert log.stat().st_size == grown  # the reader still needs it
            reader.execute("COMMIT")
            wait_until(lambda: log.stat().st_size == 0, "the log is emptied", 10)
        finally:
            stopped.set()
            dispatching.join()

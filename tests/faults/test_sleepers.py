"""A drain that is paused for ever while it holds a claim, where no limit of PostgreSQL's own reaches it."""

import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from event_stream.event_types import partition_of
from tests.support.outages import Work
from tests.support.points import POSTGRESQL_POINTS
from tests.support.servers import wait_until
from workers.runtime import Runtime

# What drains run into before it ends. Whether PostgreSQL's own limit looks at a session behind many statements at once
# hangs on how they were cut into packets; if it does, it is as fast as those who wait.
ENDED_AFTER: dict[str, list[set[str]]] = {
    "inside COPY": [{"LockNotAvailable"}],
    "after many statements at once": [{"LockNotAvailable"}, set()],
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("point", POSTGRESQL_POINTS)
def test_others_end_the_session_of_a_drain_that_was_paused_for_ever(
    runtime: Runtime, database_url: str, redis_url: str, point: str
) -> None:
    work = Work.load(runtime)
    partition = partition_of(work.made[0]["tenantid"], 4)  # which holds letters too: they go in many at once
    environ: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": "4",
    }
    command = [sys.executable, "-m", "tests.support.dying_drain", point, str(int(signal.SIGSTOP)), "1", str(partition)]
    process = subprocess.Popen(command, env=os.environ | environ)
    try:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is paused")
        with pytest.raises(OperationalError, match="could not obtain lock"), runtime.writer.begin() as connection:
            connection.execute(text(f"SELECT * FROM checkpoint WHERE partition = {partition} FOR UPDATE NOWAIT"))
        work.until_dry(timeout_s=90)
        assert {each.split(":")[0] for each in work.failures()} in ENDED_AFTER[point]
        work.assert_whole()
        process.send_signal(signal.SIGCONT)
        process.wait(60)
        work.assert_whole()
    finally:
        process.kill()
        process.wait()

"""A drain that stays paused while it holds a claim, where no timeout of PostgreSQL ends its session."""

import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from event_stream.events.event import partition_of
from tests.support.failpoints import POSTGRESQL_POINTS
from tests.support.servers import wait_until
from tests.support.workload import Workload
from workers.runtime import Runtime

# The errors of other drains before the session ends. After many statements at once, PostgreSQL's own timeout may or may
# not apply, depending on how they were split into packets. If it does, other drains may not fail at all.
ENDED_AFTER: dict[str, list[set[str]]] = {
    "inside COPY": [{"LockNotAvailable"}],
    "after many statements at once": [{"LockNotAvailable"}, set()],
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("point", POSTGRESQL_POINTS)
def test_other_drains_end_the_session_of_a_drain_that_stays_paused(
    runtime: Runtime, database_url: str, redis_url: str, point: str
) -> None:
    work = Workload.load(runtime)
    partition = partition_of(
        work.made[0]["tenantid"], 4
    )  # it has dead letters too, which are inserted by many statements at once
    environ: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": "4",
    }
    command = [
        sys.executable,
        "-m",
        "tests.support.crashing_drain",
        point,
        str(int(signal.SIGSTOP)),
        "1",
        str(partition),
    ]
    process = subprocess.Popen(command, env=os.environ | environ)
    try:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process is paused")
        with pytest.raises(OperationalError, match="could not obtain lock"), runtime.writer.begin() as connection:
            connection.execute(text(f"SELECT * FROM checkpoint WHERE partition = {partition} FOR UPDATE NOWAIT"))
        work.run_until_drained(timeout_s=90)
        assert {each.split(":")[0] for each in work.failures()} in ENDED_AFTER[point]
        work.assert_complete()
        process.send_signal(signal.SIGCONT)
        process.wait(60)
        work.assert_complete()
    finally:
        process.kill()
        process.wait()

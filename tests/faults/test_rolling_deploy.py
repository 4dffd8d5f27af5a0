"""A rolling deploy of a second projection version with real processes: nothing is lost, and each process reports its state."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from projections.read_models import analysis_trend
from projections.transaction import projection_version
from tests.faults.test_rebuild import HISTORY, TRAFFIC, is_drained, traffic
from tests.support.events import event
from tests.support.harness import append, drain_all, dump, with_projections
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start, environ_of
from tests.support.second_projection_version import NEW, is_marked
from tests.support.servers import wait_until
from workers.reporting import problems
from workers.reporting.heartbeats import read_workers
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime


def outdated(runtime: Runtime) -> list[str]:
    with runtime.reader.connect() as connection:
        return projection_version.outdated_tenants(connection, NEW)


def run_to_its_end(environ: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    whole = [sys.executable, "-m", *command]
    return subprocess.run(whole, check=False, env=environ, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("database_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.fleet)], indirect=True)
@pytest.mark.parametrize("point", ["after the claim", "before its commit"])
def test_two_releases_side_by_side_and_a_rebuild_that_is_killed(
    runtime: Runtime, start: Start, database_url: str, redis_url: str, point: str
) -> None:
    environ, new = environ_of(database_url, redis_url), with_projections(runtime, *NEW)
    append(runtime, *HISTORY)
    drain_all(runtime)
    start("cli", "dispatcher")
    older = start("cli", "worker")
    wait_until(lambda: len(read_workers(runtime)) == 1, "the old worker is registered")
    later: list[dict[str, Any]] = []
    with traffic(runtime):
        start("tests.support.second_projection_version", "worker")
        wait_until(lambda: len(read_workers(runtime)) == 2, "the new worker is registered")
        assert problems.pending_rebuilds(read_status(new)) == [
            "a rebuild is pending: analysis_trend to version 2 for 3 tenants"
        ]
        killed = start("tests.support.second_projection_version", "crashing", point, "2", "migrate", "--rebuild")
        assert killed.wait(120) == -signal.SIGKILL
        assert len(outdated(new)) == 2
        done = run_to_its_end(environ, "tests.support.second_projection_version", "migrate", "--rebuild")
        assert (done.returncode, outdated(new)) == (0, []), done.stderr

    def old_one_has_met_what_is_new() -> bool:
        later.append(event(tenantid="ten_1"))
        append(runtime, later[-1])
        return older.poll() is not None

    wait_until(old_one_has_met_what_is_new, "the old worker ends", 120)
    assert older.returncode == 1
    wait_until(lambda: is_drained(runtime), "everything is projected", 120)
    assert_fully_projected(new, [*HISTORY, *TRAFFIC, *later])
    assert all(is_marked(row) for row in dump(runtime.reader, [analysis_trend.table])["analysis_trend"])
    again = run_to_its_end(environ, "cli", "worker")
    assert again.returncode == 1
    assert "analysis_trend is at version 2, and this release has version 1; run the newer release" in again.stderr

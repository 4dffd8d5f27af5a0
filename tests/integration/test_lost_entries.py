"""Lost entries are acknowledged: health is judged by what is lost afterwards, and the history stays."""

import getpass
import json
from contextlib import closing

import pytest

from event_stream.events.event import partition_of
from monitoring.health import projector_health
from tests.support.alerts import firing
from tests.support.commands import run_command
from tests.support.events import TENANT, event
from tests.support.harness import append, checkpoints, drain_all
from tests.support.metrics_scrape import scrape
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)


def lose(runtime: Runtime, count: int) -> None:
    append(runtime, *(event() for _ in range(count)))
    key = f"events:{{{TENANT_PARTITION}}}"
    assert runtime.stream.redis.xtrim(key, maxlen=0, approximate=False) >= count
    drain_all(runtime)


@pytest.mark.both_databases
def test_health_alerts_and_doctor_follow_what_is_lost_after_an_acknowledgement(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": "4"}

    def lost_reported() -> tuple[bool, bool, bool]:
        with closing(Context.from_environ(environ)) as context:
            doctor = {each.code for each in run_checks(context).findings}
        scraped = scrape(runtime)
        return (
            any("lost" in problem for problem in projector_health(runtime).warnings),
            "ProjectorEntriesLost" in {each["alertname"] for each in firing(scraped, scraped)},
            "entries-lost" in doctor,
        )

    assert lost_reported() == (False, False, False)
    lose(runtime, 3)
    assert lost_reported() == (True, True, True)
    chosen = (
        "lost",
        "acknowledge",
        "--partition",
        str(TENANT_PARTITION),
        "--reason",
        "trimmed by hand, appended again",
    )
    for wrong in ("2", "4"):
        refused = run_command(environ, *chosen, "--count", wrong)
        assert refused.returncode == 1
        assert f"has 3 lost entries that are not acknowledged, not {wrong}" in refused.stderr
    assert lost_reported() == (True, True, True)
    assert run_command(environ, *chosen, "--count", "3").returncode == 0
    assert lost_reported() == (False, False, False)
    assert run_command(environ, *chosen, "--count", "3").returncode == 1  # not twice
    lose(runtime, 2)
    assert lost_reported() == (True, True, True)
    partition = read_status(runtime).partitions[TENANT_PARTITION]
    assert (partition.lost, partition.lost_not_acknowledged) == (5, 2)
    assert checkpoints(runtime)[TENANT_PARTITION].lost == 5
    listed = json.loads(run_command(environ, "lost", "list", "--json").stdout)
    assert listed["partitions"] == [{"partition": TENANT_PARTITION, "lost": 5, "notAcknowledged": 2}]
    (made,) = listed["acknowledgements"]
    assert made["by"].startswith(f"{getpass.getuser()}@")
    assert (made["entries"], made["reason"]) == (3, "trimmed by hand, appended again")
    assert "trimmed by hand" in run_command(environ, "lost", "list").stdout


def test_an_unknown_partition_or_no_reason_is_wrong_usage(database_url: str, redis_url: str) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": "4"}
    for wrong in (["--partition", "4", "--count", "1", "--reason", "x"], ["--partition", "0", "--count", "1"]):
        assert run_command(environ, "lost", "acknowledge", *wrong).returncode == 2

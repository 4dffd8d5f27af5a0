"""`projector doctor` on a running `projector up`: no findings when healthy, and findings once something is wrong."""

import json
from pathlib import Path

from tests.support.deployment import Deployment
from tests.support.servers import wait_until
from workers.doctor.registry import CHECKS
from workers.runtime import redis_client


def test_a_fresh_deployment_has_no_findings_and_a_changed_one_has(tmp_path: Path) -> None:
    up = Deployment(tmp_path / "data")
    up.start()
    try:
        up.await_ready()
        wait_until(lambda: up.get("/healthz/projector").status_code == 200, "events could have arrived")
        well = json.loads(up.run("doctor", "--json"))
        # This machine's Python may be linked to a version of SQLite that the doctor reports.
        codes = {finding["code"] for finding in well["findings"]}
        assert (codes - {"sqlite-wal-reset-bug"}, well["skipped"]) == (set(), [])
        assert well["checked"] == [check.code for check in CHECKS if not check.code.startswith("postgres-")]
        client = redis_client(up.variables()["REDIS_URL"])
        client.config_set("appendonly", "no")
        client.close()
        assert "error G1 redis-aof-off: aof_enabled is 0" in up.run("doctor", expect=1)
    finally:
        up.remove()

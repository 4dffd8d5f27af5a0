"""The OpenAPI document against the running API: no 5xx, and every response is documented."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from api_stub.openapi import document
from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from projections.database.engines import reader_engine, writer_engine
from projections.read_models.registry import PROJECTIONS
from tests.support.events import PROJECT, TENANT, event
from tests.support.harness import append, drain_all
from tests.support.processes import PATIENT_API
from tests.support.servers import RedisServer, free_port, wait_until
from workers.jobs.queue import drain_queue
from workers.runtime import Runtime, redis_client


@pytest.fixture(scope="module")
def api_url(
    redis_server: RedisServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    database = f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'projector.db'}"
    Path(database.removeprefix("sqlite:///")).write_bytes(sqlite_template.read_bytes())
    port = free_port()
    environ = {"REDIS_URL": redis_server.url, "DATABASE_URL": database, "PROJECTOR_PARTITIONS": "4", "PORT": str(port)}
    _fill(redis_server, database)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.override_constants", "api", json.dumps(PATIENT_API)],
        env=os.environ | environ,
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the API answers")
    yield url
    process.terminate()
    process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _fill(redis_server: RedisServer, database_url: str) -> None:
    redis = redis_client(redis_server.url)
    redis.flushall()
    writer, reader = writer_engine(database_url), reader_engine(database_url)
    settings_ = StreamSettings(partitions=4)
    runtime = Runtime(settings_, Stream(redis, 4), writer, reader, drain_queue(redis), PROJECTIONS)
    append(runtime, event("project.created.v1"), event("watchdog.evaluated.v1"), event())
    drain_all(runtime)
    with writer.begin() as connection:
        _FILLED["key"], _ = keys.create(
            connection, KeyKind.SECRET, TENANT, PROJECT, frozenset({"config:read"}), now_us=1
        )
    for closing in (writer, reader):
        closing.dispose()
    redis.close()


_FILLED: dict[str, str] = {}


@pytest.mark.parametrize("with_key", [True, False])
def test_no_answer_is_a_5xx_or_undocumented(api_url: str, with_key: bool, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    header = [f"--header=Authorization: Bearer {_FILLED['key']}"] if with_key else []
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{api_url}/openapi.json", *header),
            *("--max-examples=40", "--generation-deterministic", "--no-color", "--report=junit"),
            *("--exclude-path=/healthz/projector", f"--report-junit-path={report}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    asked = set(re.findall(r'<testcase name="GET ([^"]+)"', report.read_text()))
    assert asked == document()["paths"].keys() - {"/healthz/projector", "/openapi.json"}, done.stdout

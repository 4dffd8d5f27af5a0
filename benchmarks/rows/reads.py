"""How fast the API answers both reads, compared with a server that sends the same bytes from memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.api_process import run_api
from benchmarks.load_generator import generate_load
from benchmarks.references.limit_http import limit_http
from benchmarks.row import BenchmarkRow, Contestants, Goal
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import BenchmarkError
from benchmarks.synthetic_log import SyntheticLog, database_with_read_models

_ACTIVITY_PROJECTS = 100
_EVENTS_PER_PROJECT = 400  # about half are evaluations; at least 100 are needed


@contextmanager
def _stats(sandbox: Sandbox) -> Iterator[Contestants]:
    log = SyntheticLog(sandbox.size.many_projects * 10, sandbox.size.many_projects)
    with ExitStack() as stack:
        api = stack.enter_context(run_api(sandbox, stack.enter_context(database_with_read_models(sandbox, log))))
        requests = api.random_stats(log, log.projects, sandbox.size.requests)
        limit = stack.enter_context(limit_http(sandbox, api.get(requests[0])))
        yield {
            "stats": partial(generate_load, api.port, requests),
            "limit-http": partial(generate_load, limit, requests),
        }


@contextmanager
def _activity(sandbox: Sandbox) -> Iterator[Contestants]:
    log = SyntheticLog(_ACTIVITY_PROJECTS * _EVENTS_PER_PROJECT, _ACTIVITY_PROJECTS)
    with ExitStack() as stack:
        api = stack.enter_context(run_api(sandbox, stack.enter_context(database_with_read_models(sandbox, log))))
        requests = api.random_activity(log, log.projects, sandbox.size.requests)
        body = api.get(requests[0])
        if body.count(b'"ruleId"') != 100:
            raise BenchmarkError("the activity response does not have 100 entries")
        limit = stack.enter_context(limit_http(sandbox, body))
        yield {
            "activity": partial(generate_load, api.port, requests),
            "limit-http": partial(generate_load, limit, requests),
        }


stats = BenchmarkRow(
    "stats",
    "GET stats, random over 100,000 projects, 32 connections",
    (
        Goal("requests/s", "stats", "limit-http", at_least=0.5),
        Goal("p99 ms", "stats", "limit-http", at_most=5),
    ),
    _stats,
)
activity = BenchmarkRow(
    "activity",
    "GET activity, 100 entries, 32 connections",
    (Goal("requests/s", "activity", "limit-http", at_least=0.35),),
    _activity,
)

"""The two reads, over HTTP, beside the same server that answers from memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.asking import api
from benchmarks.history import History, with_read_models
from benchmarks.load import put_load
from benchmarks.place import Place
from benchmarks.references.limit_http import limit_http
from benchmarks.row import Contestants, Goal, Row
from benchmarks.running import MeasureError

_ACTIVITY_PROJECTS = 100
_EVENTS_FOR_100_ENTRIES = 400  # half of a project's events are evaluations, and which are its is a matter of chance


@contextmanager
def _stats(place: Place) -> Iterator[Contestants]:
    history = History(place.size.many_projects * 10, place.size.many_projects)
    with ExitStack() as stack:
        asked = stack.enter_context(api(place, stack.enter_context(with_read_models(place, history))))
        requests = asked.random_stats(history, history.projects, place.size.requests)
        limit = stack.enter_context(limit_http(place, asked.ask(requests[0])))
        yield {"stats": partial(put_load, asked.port, requests), "limit-http": partial(put_load, limit, requests)}


@contextmanager
def _activity(place: Place) -> Iterator[Contestants]:
    history = History(_ACTIVITY_PROJECTS * _EVENTS_FOR_100_ENTRIES, _ACTIVITY_PROJECTS)
    with ExitStack() as stack:
        asked = stack.enter_context(api(place, stack.enter_context(with_read_models(place, history))))
        requests = asked.random_activity(history, history.projects, place.size.requests)
        answer = asked.ask(requests[0])
        if answer.count(b'"ruleId"') != 100:
            raise MeasureError("the activity does not hold 100 entries")
        limit = stack.enter_context(limit_http(place, answer))
        yield {"activity": partial(put_load, asked.port, requests), "limit-http": partial(put_load, limit, requests)}


stats = Row(
    "stats",
    "GET stats, random over 100,000 projects, 32 connections",
    (
        Goal("requests/s", "stats", "limit-http", at_least=0.5),
        Goal("p99 ms", "stats", "limit-http", at_most=5),
    ),
    _stats,
)
activity = Row(
    "activity",
    "GET activity, 100 entries, 32 connections",
    (Goal("requests/s", "activity", "limit-http", at_least=0.35),),
    _activity,
)

"""Both reads with a short log and with a long one, and live SQL beside them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import psycopg

from benchmarks.asking import Api, api
from benchmarks.history import History, with_read_models
from benchmarks.load import put_load
from benchmarks.place import Place
from benchmarks.references.live_sql import LiveSql, timed
from benchmarks.row import Contestants, Goal, Measure, Row

_ASKED = 20  # of so many projects, one a tenant
_PROJECTS_OF_THE_LONG_LOG = 1_000
_HOT = 0.05
_FINER = 5


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    short, long = place.size.history
    # As many projects are asked on both; each has 100 evaluations and more, so that both answer as many bytes.
    few, many = History(short, _ASKED), History(long, min(_PROJECTS_OF_THE_LONG_LOG, long // 500), _HOT)
    with ExitStack() as stack:
        on_few = stack.enter_context(api(place, stack.enter_context(with_read_models(place, few))))
        url = stack.enter_context(with_read_models(place, many))
        on_many = stack.enter_context(api(place, url))
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        sql = LiveSql(connection)
        hot, *average = [(many.tenant(each), many.project_id(each)) for each in range(_ASKED)]
        for number, (tenant, project_id) in enumerate([hot, *average]):
            stats = on_many.ask(on_many.stats(tenant, f"project-{number}"))
            sql.agree(stats, on_many.ask(on_many.activity(tenant, project_id)), tenant, project_id)
        queries = place.size.queries // _FINER
        times = queries // len(average) + 1
        yield {
            "stats, long log": _stats(place, on_many, many),
            "stats, short log": _stats(place, on_few, few),
            "activity, long log": _activity(place, on_many, many),
            "activity, short log": _activity(place, on_few, few),
            "live-sql stats, average project": timed(sql.stats, average * times),
            "live-sql stats, project of 5 %": timed(sql.stats, [hot] * queries),
            "live-sql activity, average project": timed(sql.activity, average * times),
            "live-sql activity, project of 5 %": timed(sql.activity, [hot] * queries),
        }


def _stats(place: Place, asked: Api, history: History) -> Measure:
    return partial(put_load, asked.port, asked.random_stats(history, _ASKED, place.size.requests // _FINER))


def _activity(place: Place, asked: Api, history: History) -> Measure:
    return partial(put_load, asked.port, asked.random_activity(history, _ASKED, place.size.requests // _FINER))


row = Row(
    "history",
    "both reads with a million events in the log (--large: five million), and with 10,000",
    (
        Goal("requests/s", "stats, long log", "stats, short log", at_least=0.95),
        Goal("requests/s", "activity, long log", "activity, short log", at_least=0.95),
    ),
    _contestants,
    finer=_FINER,
)

"""A release with a second version of one projection, as values or as a command.

`python -m tests.support.second_projection_version COMMAND` runs a command of that release. With `crashing POINT CALL`
before the command it kills itself as `tests.support.crashing_rebuild` does. Its API answers are the same, but its rows
can be recognised: they also count the analyses of a month that no read shows.
"""

import importlib
import sys
from collections.abc import Iterable
from dataclasses import replace

from event_stream.events.event import Event
from projections.database.columns import Row
from projections.folding.projection import Projection
from projections.read_models import analysis_trend, registry
from projections.read_models.analysis_trend import AnalysisTrend, by_month_from_json

MARKED_MONTH = 0


def _fold(row: AnalysisTrend, event: Event) -> AnalysisTrend:
    row = analysis_trend.fold(row, event)
    return row._replace(by_month={**row.by_month, MARKED_MONTH: (row.total,)})


def is_marked(row: Row) -> bool:
    """Whether a row of the table `analysis_trend` was made by the second version."""
    return MARKED_MONTH in by_month_from_json(row[4])


SECOND = replace(analysis_trend.projection, version=2, fold=_fold)
OLD: tuple[Projection, ...] = registry.PROJECTIONS
NEW: tuple[Projection, ...] = tuple(SECOND if each.name == SECOND.name else each for each in OLD)


def line(projections: Iterable[Projection] = OLD, **versions: str) -> str:
    """Return the version record of a tenant with rows of these projections; `versions` overrides some."""
    found = {each.name: str(each.version) for each in projections} | versions
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def main() -> None:
    registry.PROJECTIONS = NEW
    # Modules imported from here on use the changed registry.
    if sys.argv[1] == "crashing":
        del sys.argv[1]
        importlib.import_module("tests.support.crashing_rebuild").main()
    else:
        importlib.import_module("cli.main").run()


if __name__ == "__main__":
    main()

"""Another release, with a second version of a projection: here, or as `python -m tests.support.releases COMMAND`.

With `dying POINT CALL` before the command it dies as `tests.support.dying_rebuild` does. Its answers are the same, but each of its rows says whose it is: `total` counts in thousands.
"""

import importlib
import sys
from collections.abc import Iterable
from dataclasses import replace

from event_stream.event_types import Event
from projections.folding.projection import Projection
from projections.read_models import analysis_trend, registry
from projections.read_models.analysis_trend import AnalysisTrend

THOUSAND = 1000


def _fold(row: AnalysisTrend, event: Event) -> AnalysisTrend:
    return analysis_trend.fold(row, event)._replace(total=row.total + THOUSAND)


SECOND = replace(analysis_trend.projection, version=2, fold=_fold)
OLD: tuple[Projection, ...] = registry.PROJECTIONS
NEW: tuple[Projection, ...] = tuple(SECOND if each.name == SECOND.name else each for each in OLD)


def line(projections: Iterable[Projection] = OLD, **versions: str) -> str:
    """Return the line of a tenant whose rows these projections made; `versions` replaces some, as `"1 behind"`."""
    found = {each.name: str(each.version) for each in projections} | versions
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def main() -> None:
    registry.PROJECTIONS = NEW
    # Whatever is imported from here on takes the registry's projections.
    if sys.argv[1] == "dying":
        del sys.argv[1]
        importlib.import_module("tests.support.dying_rebuild").main()
    else:
        importlib.import_module("cli.main").run()


if __name__ == "__main__":
    main()

"""How tests rebuild: in this process, what is due or all that there is."""

from collections.abc import Iterable, Sequence
from typing import Any

from projections.folding.projection import Projection
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from tests.support.events import NOW_US
from workers.maintenance.rebuild_tenants import Rebuilder, TenantRebuild
from workers.runtime import Runtime


def rebuilder(runtime: Runtime, projections: Sequence[Projection] | None = None, **options: Any) -> Rebuilder:
    """Return what rebuilds with the test's engines; it waits for no outage."""
    chosen = runtime.projections if projections is None else projections
    options = {"timeout_s": 0.0} | options
    return Rebuilder(runtime.writer, runtime.reader, runtime.settings.partitions, chosen, **options)


def plan(
    runtime: Runtime,
    asked: RebuildRequest = RebuildRequest(),  # noqa: B008
    projections: Sequence[Projection] | None = None,
) -> list[str]:
    """Note what is due, as the command does where nothing is; return the tenants."""
    chosen = runtime.projections if projections is None else projections
    with runtime.writer.begin() as connection:
        tenants = pending_rebuilds.tenants_in(connection, chosen) if asked.tenant_id is None else [asked.tenant_id]
        pending_rebuilds.plan(connection, asked, chosen, tenants, NOW_US)
    return tenants


def still_due(runtime: Runtime, asked: RebuildRequest = RebuildRequest()) -> dict[str, frozenset[str]]:  # noqa: B008
    with runtime.reader.connect() as connection:
        return pending_rebuilds.read(connection, asked)


def rebuild_all(
    runtime: Runtime, projections: Sequence[Projection] | None = None, **options: Any
) -> list[TenantRebuild]:
    """Rebuild everything from the beginning, and see that nothing is due then."""
    tenants = plan(runtime, projections=projections)
    outcomes = outcomes_of(rebuilder(runtime, projections, **options).rebuild_due(tenants, RebuildRequest()))
    if all(outcome.error is None for outcome in outcomes):
        assert still_due(runtime) == {}
    return outcomes


def outcomes_of(work: Iterable[int | TenantRebuild]) -> list[TenantRebuild]:
    """Do some work to its end; return what became of the tenants."""
    return [each for each in work if isinstance(each, TenantRebuild)]


def differing(outcomes: Sequence[TenantRebuild]) -> dict[str, tuple[int, int, int]]:
    """Return of each read model that differed how many rows were missing, extra, and changed."""
    found: dict[str, tuple[int, int, int]] = {}
    for outcome in outcomes:
        assert outcome.error is None
        for name, counts in outcome.differed.items():
            before = found.get(name, (0, 0, 0))
            found[name] = (before[0] + counts["missing"], before[1] + counts["extra"], before[2] + counts["changed"])
    return {name: sizes for name, sizes in found.items() if any(sizes)}

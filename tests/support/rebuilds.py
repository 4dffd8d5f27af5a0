"""Rebuilds in this process: pending requests, or everything."""

from collections.abc import Iterable, Sequence
from typing import Any

from projections.folding.projection import Projection
from projections.lifecycle import pending_rebuilds, tenant_data
from projections.lifecycle.pending_rebuilds import RebuildRequest
from tests.support.events import NOW_US
from workers.maintenance.rebuild_results import TenantRebuild
from workers.maintenance.rebuild_tenants import Rebuilder
from workers.runtime import Runtime


def rebuilder(runtime: Runtime, projections: Sequence[Projection] | None = None, **options: Any) -> Rebuilder:
    """Return a Rebuilder on the test's engines that does not wait for outages to end."""
    chosen = runtime.projections if projections is None else projections
    options = {"timeout_s": 0.0} | options
    return Rebuilder(runtime.writer, runtime.reader, runtime.settings.partitions, chosen, **options)


def plan_rebuilds(
    runtime: Runtime,
    asked: RebuildRequest = RebuildRequest(),  # noqa: B008
    projections: Sequence[Projection] | None = None,
) -> list[str]:
    """Record the pending rebuilds of a request, as the command does; return the tenants."""
    chosen = runtime.projections if projections is None else projections
    with runtime.writer.begin() as connection:
        tenants = tenant_data.tenants_with_data(connection, chosen) if asked.tenant_id is None else [asked.tenant_id]
        pending_rebuilds.plan(connection, asked, chosen, tenants, NOW_US)
    return tenants


def pending(runtime: Runtime, asked: RebuildRequest = RebuildRequest()) -> dict[str, frozenset[str]]:  # noqa: B008
    with runtime.reader.connect() as connection:
        return pending_rebuilds.read(connection, asked)


def rebuild_all(
    runtime: Runtime, projections: Sequence[Projection] | None = None, **options: Any
) -> list[TenantRebuild]:
    """Rebuild everything from the start, and check that no request is pending afterwards."""
    tenants = plan_rebuilds(runtime, projections=projections)
    outcomes = results_of(rebuilder(runtime, projections, **options).rebuild_pending(tenants, RebuildRequest()))
    if all(outcome.error is None for outcome in outcomes):
        assert pending(runtime) == {}
    return outcomes


def results_of(work: Iterable[int | TenantRebuild]) -> list[TenantRebuild]:
    """Run a rebuild to its end; return the result of each tenant."""
    return [each for each in work if isinstance(each, TenantRebuild)]


def differing(outcomes: Sequence[TenantRebuild]) -> dict[str, tuple[int, int, int]]:
    """Return the number of missing, extra and changed rows of each read model that differed."""
    found: dict[str, tuple[int, int, int]] = {}
    for outcome in outcomes:
        assert outcome.error is None
        for name, counts in outcome.differed.items():
            before = found.get(name, (0, 0, 0))
            found[name] = (before[0] + counts["missing"], before[1] + counts["extra"], before[2] + counts["changed"])
    return {name: sizes for name, sizes in found.items() if any(sizes)}

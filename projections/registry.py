"""The projections. A new read model is one file, one line here, one migration (and a query and a route)."""

from projections import activity, analysis_trend, project, tenant
from projections.projection import Projection

PROJECTIONS: tuple[Projection, ...] = (
    project.projection,
    tenant.projection,
    analysis_trend.projection,
    activity.projection,
)

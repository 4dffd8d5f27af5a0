"""The projections. A new read model is one file, one line here, one migration (and a query and a route)."""

from projections.folding.projection import Projection
from projections.read_models import activity, analysis_trend, project, tenant

PROJECTIONS: tuple[Projection, ...] = (
    project.projection,
    tenant.projection,
    analysis_trend.projection,
    activity.projection,
)

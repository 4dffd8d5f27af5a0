"""The registry of all projections. To add a read model: one file, one line here, one migration."""

from projections.folding.projection import Projection
from projections.read_models import activity, analysis_trend, project, project_details, tenant

PROJECTIONS: tuple[Projection, ...] = (
    project.projection,
    project_details.projection,
    tenant.projection,
    analysis_trend.projection,
    activity.projection,
)

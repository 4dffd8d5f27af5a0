"""Of which version each tenant's rows are in each read model; all that there are now are of the first."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
FIRST = "activity 1, analysis_trend 1, project 1, tenant 1"


def upgrade() -> None:
    op.create_table(
        "active_version",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("versions", KEY, nullable=False),
    )
    op.execute(f"INSERT INTO active_version SELECT DISTINCT tenant_id, '{FIRST}' FROM event_log")
    op.create_index("active_version_by_versions", "active_version", ["versions"])

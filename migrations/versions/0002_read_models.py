"""The read models: project, tenant, analysis_trend, activity."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("present_time_us", sa.BigInteger, nullable=False),
        sa.Column("present_event_id", KEY, nullable=False),
        sa.Column("slug", KEY),
        sa.Column("slug_time_us", sa.BigInteger, nullable=False),
        sa.Column("slug_event_id", KEY, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("name_time_us", sa.BigInteger, nullable=False),
        sa.Column("name_event_id", KEY, nullable=False),
        sa.Column("watchdog_enabled", sa.Boolean, nullable=False),
        sa.Column("watchdog_time_us", sa.BigInteger, nullable=False),
        sa.Column("watchdog_event_id", KEY, nullable=False),
        sa.Column("log_source_count", sa.Integer, nullable=False),
        sa.Column("log_sources", sa.Text, nullable=False),
        sa.Column("repo_count", sa.Integer, nullable=False),
        sa.Column("repos", sa.Text, nullable=False),
        sa.Column("notification_channel_count", sa.Integer, nullable=False),
        sa.Column("notification_channels", sa.Text, nullable=False),
    )
    op.create_index(
        "project_by_slug",
        "project",
        ["tenant_id", "slug", sa.text("slug_time_us DESC"), sa.text("slug_event_id DESC")],
        postgresql_where=sa.text("present"),
        sqlite_where=sa.text("present = 1"),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("support_desk_count", sa.Integer, nullable=False),
        sa.Column("support_desks", sa.Text, nullable=False),
    )
    op.create_table(
        "analysis_trend",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("by_day", sa.Text, nullable=False),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "activity",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("time_us", sa.BigInteger, primary_key=True),
        sa.Column("event_id", KEY, primary_key=True),
        sa.Column("entry", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("activity", "analysis_trend", "tenant", "project"):
        op.drop_table(table)

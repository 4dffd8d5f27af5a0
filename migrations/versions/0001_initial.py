"""The whole schema: event log, checkpoints, dead letters, read models, rebuilds, API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "event_log",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("event_id", KEY, primary_key=True),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("type", KEY, nullable=False),
        sa.Column("project_id", KEY),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("event_log_by_number", "event_log", ["partition", "number"], unique=True)
    op.create_table(
        "checkpoint",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("position_ms", sa.BigInteger, nullable=False),
        sa.Column("position_seq", sa.BigInteger, nullable=False),
        sa.Column("position_digest", sa.LargeBinary, nullable=False),
        sa.Column("added_offset", sa.BigInteger, nullable=False),
        sa.Column("read", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.BigInteger, nullable=False),
        sa.Column("duplicates", sa.BigInteger, nullable=False),
        sa.Column("dead_lettered", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.BigInteger, nullable=False),
        sa.Column("stream_end_ms", sa.BigInteger, nullable=False),
        sa.Column("stream_end_seq", sa.BigInteger, nullable=False),
        sa.Column("stream_end_digest", sa.LargeBinary, nullable=False),
        sa.Column("stream_end_added", sa.BigInteger, nullable=False),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "deployment",
        sa.Column("only_row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("deployment_id", sa.Text, nullable=False),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("state", KEY, nullable=False),
        sa.Column("reason", KEY, nullable=False),
        sa.Column("bucket", KEY, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("position_ms", sa.BigInteger, nullable=False),
        sa.Column("position_seq", sa.BigInteger, nullable=False),
        sa.Column("tenant_id", KEY),
        sa.Column("event_id", KEY),
        sa.Column("times_seen", sa.BigInteger, nullable=False),
        sa.Column("first_seen_us", sa.BigInteger, nullable=False),
        sa.Column("last_seen_us", sa.BigInteger, nullable=False),
        sa.Column("was_open", sa.Boolean, nullable=False),
        sa.Column("closed_us", sa.BigInteger),
        sa.Column("body_length", sa.BigInteger, nullable=False),
        sa.Column("body_sha256", KEY, nullable=False),
        sa.Column("body", sa.LargeBinary),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.02},
    )
    for name, columns, condition in (
        ("by_event", ["tenant_id", "event_id"], "state = 'open'"),
        ("by_group", ["bucket", "reason", "last_seen_us", "id"], "state = 'open'"),
        ("by_closed", ["closed_us"], "closed_us IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(f"dead_letter_{name}", "dead_letter", columns, postgresql_where=where, sqlite_where=where)
    is_open = sa.text("state = 'open'")
    op.create_index(
        "dead_letter_by_body",
        "dead_letter",
        ["body_sha256"],
        postgresql_using="hash",
        postgresql_where=is_open,
        sqlite_where=is_open,
    )
    op.create_index("dead_letter_by_last_seen", "dead_letter", ["last_seen_us"])
    op.create_table(
        "dead_letter_count",
        sa.Column("bucket", KEY, primary_key=True),
        sa.Column("reason", KEY, primary_key=True),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("not_kept", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "lost_acknowledgement",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("lost", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("acknowledged_us", sa.BigInteger, nullable=False),
        sa.Column("acknowledged_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "api_key",
        sa.Column("key_id", KEY, primary_key=True),
        sa.Column("secret_sha256", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("tenant_id", KEY, nullable=False),
        sa.Column("project_id", KEY),
        sa.Column("permissions", KEY, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("revoked_us", sa.BigInteger),
    )
    op.create_table(
        "project",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("project_exists", sa.Boolean, nullable=False),
        sa.Column("exists_time_us", sa.BigInteger, nullable=False),
        sa.Column("exists_event_id", KEY, nullable=False),
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
        sa.Column("event_count", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "project_by_slug",
        "project",
        ["tenant_id", "slug", sa.text("slug_time_us DESC"), sa.text("slug_event_id DESC")],
        postgresql_where=sa.text("project_exists"),
        sqlite_where=sa.text("project_exists = 1"),
    )
    op.create_table(
        "project_details",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("updated_time_us", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("description_time_us", sa.BigInteger, nullable=False),
        sa.Column("description_event_id", KEY, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("is_default_time_us", sa.BigInteger, nullable=False),
        sa.Column("is_default_event_id", KEY, nullable=False),
        sa.Column("llm_context", sa.Text),
        sa.Column("llm_context_time_us", sa.BigInteger, nullable=False),
        sa.Column("llm_context_event_id", KEY, nullable=False),
        sa.Column("event_count", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("support_desk_count", sa.Integer, nullable=False),
        sa.Column("support_desks", sa.Text, nullable=False),
        sa.Column("plan_limit", sa.BigInteger),
        sa.Column("plan_limit_time_us", sa.BigInteger, nullable=False),
        sa.Column("plan_limit_event_id", KEY, nullable=False),
        sa.Column("event_count", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "analysis_trend",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("by_day", sa.Text, nullable=False),
        sa.Column("by_month", sa.Text, nullable=False),
        sa.Column("event_count", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.BigInteger, nullable=False),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "activity",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("project_id", KEY, primary_key=True),
        sa.Column("time_us", sa.BigInteger, primary_key=True),
        sa.Column("event_id", KEY, primary_key=True),
        sa.Column("evaluation", sa.Text, nullable=False),
    )
    op.create_table(
        "pending_rebuild",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("projection", KEY, primary_key=True),
        sa.Column("request", KEY, primary_key=True),
        sa.Column("requested_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "projection_version",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("versions", KEY, nullable=False),
    )
    op.create_index("projection_version_by_versions", "projection_version", ["versions"])

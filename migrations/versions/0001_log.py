"""The event log, checkpoints, dead letters, and API keys."""

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
    op.create_table(
        "checkpoint",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("position_ms", sa.BigInteger, nullable=False),
        sa.Column("position_seq", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("added_before", sa.BigInteger, nullable=False),
        sa.Column("read", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.BigInteger, nullable=False),
        sa.Column("duplicates", sa.BigInteger, nullable=False),
        sa.Column("parked", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.BigInteger, nullable=False),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("state", KEY, nullable=False),
        sa.Column("reason", KEY, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("position_ms", sa.BigInteger, nullable=False),
        sa.Column("position_seq", sa.BigInteger, nullable=False),
        sa.Column("tenant_id", KEY),
        sa.Column("event_id", KEY),
        sa.Column("times_seen", sa.BigInteger, nullable=False),
        sa.Column("first_seen_us", sa.BigInteger, nullable=False),
        sa.Column("last_seen_us", sa.BigInteger, nullable=False),
        sa.Column("body_length", sa.BigInteger, nullable=False),
        sa.Column("body_sha256", KEY, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    is_open = sa.text("state = 'open'")
    op.create_index(
        "dead_letter_by_event",
        "dead_letter",
        ["tenant_id", "event_id"],
        postgresql_where=is_open,
        sqlite_where=is_open,
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


def downgrade() -> None:
    for table in ("api_key", "dead_letter", "checkpoint", "event_log"):
        op.drop_table(table)

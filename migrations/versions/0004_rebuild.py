"""The log by number, dense per partition, so that its newest events are found; and what is due to be rebuilt."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_index("event_log_by_number", "event_log", ["partition", "number"], unique=True)
    op.create_table(
        "rebuild",
        sa.Column("tenant_id", KEY, primary_key=True),
        sa.Column("projection", KEY, primary_key=True),
        sa.Column("asked", KEY, primary_key=True),
        sa.Column("since_us", sa.BigInteger, nullable=False),
    )

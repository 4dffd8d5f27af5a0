"""What a stream was last seen to hold, so that what vanishes together with Redis's own counter is counted as lost."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With defaults, as workers of the release before go on meanwhile.
    no_bytes = sa.text("x''" if op.get_bind().dialect.name == "sqlite" else "''")
    for name, type_, default in (
        ("seen_ms", sa.BigInteger, "0"),
        ("seen_seq", sa.BigInteger, "0"),
        ("seen_digest", sa.LargeBinary, no_bytes),
        ("seen_added", sa.BigInteger, "0"),
    ):
        op.add_column("checkpoint", sa.Column(name, type_, nullable=False, server_default=default))

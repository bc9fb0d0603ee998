"""Add the hash of the scored text to ``signals``: it is part of a signal's id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

_SIGNAL_ID = "COMMENT ON COLUMN signals.signal_id IS 'Hash of ({}): the same work always has the same id.'"


def upgrade() -> None:
    """Add the column. Rows of earlier versions keep their ids, and have no hash."""
    op.add_column(
        "signals",
        sa.Column(
            "text_hash",
            sa.Text,
            comment="SHA-256 of the text that was scored, 32 hex digits; null for signals of earlier versions.",
        ),
    )
    op.execute(_SIGNAL_ID.format("news_id, revision, text_hash, model_revision, policy"))


def downgrade() -> None:
    """Drop the column."""
    op.execute(_SIGNAL_ID.format("news_id, revision, model_revision, policy"))
    op.drop_column("signals", "text_hash")

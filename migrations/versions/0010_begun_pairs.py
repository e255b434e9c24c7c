"""begun pairs in the order in which they are handed out

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_pair_campaign_id_n_leased", table_name="pair")
    op.create_index("ix_pair_begun", "pair", ["campaign_id", sa.text("n_leased DESC"), "created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_pair_begun", table_name="pair")
    op.create_index("ix_pair_campaign_id_n_leased", "pair", ["campaign_id", "n_leased"])

"""queues and workers: what a job needs, its parts, who is there to take it

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("queue", sa.String(32), nullable=False, server_default="gpu"))
    op.add_column("job", sa.Column("version", sa.String(40), nullable=False, server_default=""))
    op.add_column("job", sa.Column("workers_lost", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE job SET queue = 'cpu' WHERE kind IN ('reward_model', 'push')")
    if op.get_bind().dialect.name == "sqlite":  # which adds a foreign key only with its column
        op.execute(
            "ALTER TABLE job ADD COLUMN parent_id CHAR(32)"
            " CONSTRAINT fk_job_parent_id_job REFERENCES job (id) ON DELETE CASCADE"
        )
    else:
        op.add_column("job", sa.Column("parent_id", sa.Uuid()))
        op.create_foreign_key("fk_job_parent_id_job", "job", "job", ["parent_id"], ["id"], ondelete="CASCADE")
    op.create_index("ix_job_parent_id", "job", ["parent_id"])
    op.create_table(
        "worker",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("queues", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refusal", sa.Text()),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
    )


def downgrade() -> None:
    op.drop_table("worker")
    op.execute("DELETE FROM job WHERE parent_id IS NOT NULL")  # what they drew stays; their jobs do the rest themselves
    op.drop_index("ix_job_parent_id", table_name="job")
    for column in ("parent_id", "workers_lost", "version", "queue"):
        op.drop_column("job", column)

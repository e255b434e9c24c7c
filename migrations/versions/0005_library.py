"""library: marks, the bin, retention, and the indexes of a large gallery

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # not in batch mode: it would copy the table on SQLite, and dropping the old one deletes what refers to it
    op.add_column("checkpoint", sa.Column("starred", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("checkpoint", sa.Column("note", sa.Text(), nullable=False, server_default=""))
    op.add_column("checkpoint", sa.Column("n_bytes", sa.BigInteger(), nullable=True))
    op.add_column("checkpoint", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("sample", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sample_seed_created_at_id"), ["seed", "created_at", "id"], unique=False)
    with op.batch_alter_table("sample_reward", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_sample_reward_name_value_sample_id"), ["name", "value", "sample_id"], unique=False
        )
    op.create_table(
        "sample_mark",
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("starred", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("tags", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["sample.id"], name=op.f("fk_sample_mark_sample_id_sample"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sample_id", name=op.f("pk_sample_mark")),
    )
    with op.batch_alter_table("sample_mark", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sample_mark_starred"), ["starred"], unique=False)
    op.create_table(
        "library_state",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_library_state")),
    )


def downgrade() -> None:
    op.drop_table("library_state")
    with op.batch_alter_table("sample_mark", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sample_mark_starred"))
    op.drop_table("sample_mark")
    with op.batch_alter_table("sample_reward", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sample_reward_name_value_sample_id"))
    with op.batch_alter_table("sample", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sample_seed_created_at_id"))
    for name in ("deleted_at", "n_bytes", "note", "starred"):
        op.drop_column("checkpoint", name)

"""invitations: links into a campaign, who came by them, and example pairs beside the guidelines

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "invitation",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.String(length=120), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        sa.Column("n_uses", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_invitation_campaign_id_campaign"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["user_account.id"], name=op.f("fk_invitation_created_by_user_account"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitation")),
        sa.UniqueConstraint("code_hash", name=op.f("uq_invitation_code_hash")),
    )
    with op.batch_alter_table("invitation", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_invitation_campaign_id_created_at_id"), ["campaign_id", "created_at", "id"], unique=False
        )

    op.create_table(
        "guest",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("invitation_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["invitation_id"], ["invitation.id"], name=op.f("fk_guest_invitation_id_invitation"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.id"], name=op.f("fk_guest_user_id_user_account"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_guest")),
    )
    with op.batch_alter_table("guest", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_guest_invitation_id"), ["invitation_id"], unique=False)

    op.create_table(
        "campaign_example",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("left_sample_id", sa.Uuid(), nullable=False),
        sa.Column("right_sample_id", sa.Uuid(), nullable=False),
        sa.Column(
            "choice",
            sa.Enum("left", "right", "tie", "both_bad", "skip", name="choice", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column("note", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_campaign_example_campaign_id_campaign"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["left_sample_id"],
            ["sample.id"],
            name=op.f("fk_campaign_example_left_sample_id_sample"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["right_sample_id"],
            ["sample.id"],
            name=op.f("fk_campaign_example_right_sample_id_sample"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign_example")),
    )
    with op.batch_alter_table("campaign_example", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_campaign_example_campaign_id_created_at_id"),
            ["campaign_id", "created_at", "id"],
            unique=False,
        )


def downgrade() -> None:
    # guests stay as users of the lowest role: their votes are somebody's; their browser sessions end, because without
    # the table those would reach every page that raters may see
    op.execute("DELETE FROM web_session WHERE user_id IN (SELECT user_id FROM guest)")
    with op.batch_alter_table("campaign_example", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_campaign_example_campaign_id_created_at_id"))
    op.drop_table("campaign_example")

    with op.batch_alter_table("guest", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_guest_invitation_id"))
    op.drop_table("guest")

    with op.batch_alter_table("invitation", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_invitation_campaign_id_created_at_id"))
    op.drop_table("invitation")

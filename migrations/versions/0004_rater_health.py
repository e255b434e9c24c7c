"""rater health: gold pairs, retractions, who is in a snapshot, sketches for pair selection

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gold_pair",
        sa.Column("pair_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("better_sample_id", sa.Uuid(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["better_sample_id"], ["sample.id"], name=op.f("fk_gold_pair_better_sample_id_sample")),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_gold_pair_campaign_id_campaign"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["user_account.id"], name=op.f("fk_gold_pair_created_by_user_account"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"], name=op.f("fk_gold_pair_pair_id_pair"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pair_id", name=op.f("pk_gold_pair")),
    )
    op.create_index(op.f("ix_gold_pair_campaign_id_retired_at"), "gold_pair", ["campaign_id", "retired_at"])
    op.create_table(
        "retraction",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("rater_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.String(length=300), nullable=False),
        sa.Column("retracted_by", sa.Uuid(), nullable=True),
        sa.Column("retracted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_retraction_campaign_id_campaign"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["rater_id"], ["user_account.id"], name=op.f("fk_retraction_rater_id_user_account")),
        sa.ForeignKeyConstraint(
            ["retracted_by"],
            ["user_account.id"],
            name=op.f("fk_retraction_retracted_by_user_account"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "rater_id", name=op.f("pk_retraction")),
    )
    op.create_table(
        "snapshot_rater",
        sa.Column("snapshot_id", sa.Uuid(), nullable=False),
        sa.Column("rater_id", sa.Uuid(), nullable=False),
        sa.Column("n_votes", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rater_id"], ["user_account.id"], name=op.f("fk_snapshot_rater_rater_id_user_account")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["label_snapshot.id"],
            name=op.f("fk_snapshot_rater_snapshot_id_label_snapshot"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "rater_id", name=op.f("pk_snapshot_rater")),
    )
    op.create_index(op.f("ix_snapshot_rater_rater_id"), "snapshot_rater", ["rater_id"])
    op.create_table(
        "sample_sketch",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaign.id"], name=op.f("fk_sample_sketch_campaign_id_campaign"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["sample.id"], name=op.f("fk_sample_sketch_sample_id_sample"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("campaign_id", "position", name=op.f("pk_sample_sketch")),
    )
    # plain ALTER TABLE on SQLite too: a rebuilt table would be dropped, and its votes with it
    op.add_column("comparison", sa.Column("is_gold", sa.Boolean(), server_default=sa.false(), nullable=False))
    # snapshots of before held every vote that their campaign had at that moment
    op.execute(
        "INSERT INTO snapshot_rater (snapshot_id, rater_id, n_votes, weight) "
        "SELECT label_snapshot.id, preference.rater_id, count(*), 1.0 FROM label_snapshot "
        "JOIN preference ON preference.campaign_id = label_snapshot.campaign_id "
        "AND preference.created_at <= label_snapshot.created_at GROUP BY label_snapshot.id, preference.rater_id"
    )


def downgrade() -> None:
    op.execute(
        "UPDATE campaign SET n_leased = n_leased - (SELECT count(*) FROM comparison "
        "WHERE comparison.campaign_id = campaign.id AND is_gold AND NOT expired)"
    )
    op.execute("DELETE FROM preference WHERE comparison_id IN (SELECT id FROM comparison WHERE is_gold)")
    op.execute("DELETE FROM comparison WHERE is_gold")
    op.drop_column("comparison", "is_gold")
    op.drop_table("sample_sketch")
    op.drop_table("snapshot_rater")
    op.drop_table("retraction")
    op.drop_table("gold_pair")

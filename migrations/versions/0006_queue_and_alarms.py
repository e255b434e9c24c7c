"""queue and alarms: priority and place in the queue

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("queue_position", sa.BigInteger(), nullable=False, server_default="0"))
    # jobs that wait keep the order in which they came; new ones get microseconds since 1970 and stand behind them
    op.execute(
        "UPDATE job SET queue_position ="
        " (SELECT count(*) FROM job AS earlier WHERE earlier.created_at < job.created_at) WHERE status = 'queued'"
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        # the defaults stay: taking them away would rebuild the table on SQLite, whose rows the log's rows hang on
        batch_op.create_index(
            batch_op.f("ix_job_status_priority_queue_position"), ["status", "priority", "queue_position"], unique=False
        )

    with op.batch_alter_table("job_event", schema=None) as batch_op:  # a curve or a log tail, without the rest
        batch_op.create_index(batch_op.f("ix_job_event_job_id_kind_seq"), ["job_id", "kind", "seq"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("job_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_event_job_id_kind_seq"))
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_status_priority_queue_position"))
    op.drop_column("job", "queue_position")
    op.drop_column("job", "priority")

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
    # plain ALTER TABLE on SQLite too: a rebuilt table would be dropped, and its events with it
    op.add_column("job", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job", sa.Column("queue_position", sa.BigInteger(), server_default="0", nullable=False))
    # jobs that wait keep the order in which they came; new ones get microseconds since 1970 and stand behind them
    op.execute(
        "UPDATE job SET queue_position ="
        " (SELECT count(*) FROM job AS earlier WHERE earlier.created_at < job.created_at) WHERE status = 'queued'"
    )
    op.create_index(op.f("ix_job_status_priority_queue_position"), "job", ["status", "priority", "queue_position"])
    # a curve or a log tail, without the rest
    op.create_index(op.f("ix_job_event_job_id_kind_seq"), "job_event", ["job_id", "kind", "seq"])


def downgrade() -> None:
    op.drop_index(op.f("ix_job_event_job_id_kind_seq"), "job_event")
    op.drop_index(op.f("ix_job_status_priority_queue_position"), "job")
    op.drop_column("job", "queue_position")
    op.drop_column("job", "priority")

"""Migration 0006 with data in place, up and down, on both databases."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from alembic import command
from sqlalchemy import Connection, select, text

from app.config import Settings
from app.db import migrate as migrations
from app.db.models import Checkpoint, Job, JobEvent
from app.db.queries import jobs as queries
from app.db.session import Database
from app.domain.enums import EventKind, JobKind, JobStatus
from tests.labeling_data import add_checkpoint


def step(connection: Connection, revision: str, *, down: bool = False) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, revision)


def test_jobs_keep_their_events_their_checkpoints_and_their_order_both_ways(
    database: Database, settings: Settings, clock: Any
):
    base = add_checkpoint(database, settings, seeds=range(2))
    with database.writer() as session:
        jobs = [
            Job(
                id=uuid4(), kind=JobKind.FINETUNE, name=str(n), status=JobStatus.QUEUED, spec={},
                created_at=clock.now() - timedelta(minutes=n),
            )
            for n in range(3)
        ]  # fmt: skip
        session.add_all(jobs)
        session.flush()
        for job in jobs:
            queries.append_event(session, job.id, EventKind.LOG, {"message": job.name}, clock.now())
        session.get_one(Checkpoint, base).job_id = jobs[0].id
        in_order: list[UUID] = [job.id for job in reversed(jobs)]
    with database.new_session(write=True) as session:
        revisions = migrations.known_revisions()
        step(session.connection(), revisions[revisions.index("0006") + 1], down=True)
        assert session.scalar(text("SELECT count(*) FROM job_event")) == 3
        step(session.connection(), "head")
        session.commit()
    with database.reader() as session:
        assert session.scalars(select(Job.id).order_by(*queries.QUEUE_ORDER)).all() == in_order
        assert {event.payload["message"] for event in session.scalars(select(JobEvent))} == {"0", "1", "2"}
        assert session.get_one(Checkpoint, base).job_id == jobs[0].id

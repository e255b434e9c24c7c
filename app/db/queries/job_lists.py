"""SQL of jobs as people and programs look at them, and of what an operator may change."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Campaign, Job, JobEvent, RewardAvailability, RewardModel
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import EventKind, JobKind, JobStatus


def jobs(
    session: Session, *, kind: JobKind | None, status: JobStatus | None, after: Position | None, limit: int
) -> Slice[Job]:
    statement = select(Job)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    if status is not None:
        statement = statement.where(Job.status == status)
    return newest_first(session, statement, (Job.created_at, Job.id), after=after, limit=limit)


def locked_job(session: Session, job_id: UUID) -> Job | None:
    """The job, kept from changing under us until this transaction ends."""
    return session.scalar(
        select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    )


def events(session: Session, job_id: UUID, *, after: int, limit: int) -> Sequence[JobEvent]:
    return session.scalars(
        select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
    ).all()


def metrics(session: Session, job_id: UUID) -> Sequence[dict[str, Any]]:
    """The rows of the per-epoch series as they were reported."""
    return session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.METRICS)
        .order_by(JobEvent.seq)
    ).all()


def status_of(session: Session, job_id: UUID) -> JobStatus | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))


def campaign(session: Session, campaign_id: UUID) -> Campaign | None:
    return session.get(Campaign, campaign_id)


def reward_model_ids(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that exist."""
    return set(session.scalars(select(RewardModel.id).where(RewardModel.id.in_(ids))))


def reported_rewards(session: Session) -> list[tuple[str, dict[str, Any], datetime]]:
    """(name, description, when) of every reward that a worker has reported."""
    rows = session.scalars(select(RewardAvailability).order_by(RewardAvailability.name))
    return [(row.name, row.info, row.updated_at) for row in rows]

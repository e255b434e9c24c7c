"""SQL of what past runs took: the ground that estimates and warnings stand on."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Job, JobEvent, RewardModel, Sample, SampleReward
from app.domain.enums import EventKind, JobKind, JobStatus


def root_of(session: Session, checkpoint_id: UUID) -> UUID:
    """The base that a checkpoint descends from: all its descendants have one architecture."""
    current = checkpoint_id
    while (parent := session.scalar(select(Checkpoint.parent_id).where(Checkpoint.id == current))) is not None:
        current = parent
    return current


def recent_jobs(session: Session, kind: JobKind, *, limit: int) -> Sequence[Job]:
    """Jobs of a kind that a worker has begun, newest first."""
    return session.scalars(
        select(Job).where(Job.kind == kind, Job.started_at.is_not(None)).order_by(Job.created_at.desc()).limit(limit)
    ).all()


def succeeded_in_one_go(session: Session, kind: JobKind, *, limit: int) -> Sequence[Job]:
    """Jobs whose start and end say how long they took, newest first."""
    return session.scalars(
        select(Job)
        .where(Job.kind == kind, Job.status == JobStatus.SUCCEEDED, Job.attempts == 1, Job.started_at.is_not(None))
        .order_by(Job.created_at.desc())
        .limit(limit)
    ).all()


def last_events(session: Session, job_id: UUID, kind: EventKind, *, limit: int) -> Sequence[dict[str, Any]]:
    """The newest payloads of a kind, newest first."""
    return session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == kind)
        .order_by(JobEvent.seq.desc())
        .limit(limit)
    ).all()


def first_events(session: Session, job_id: UUID, kind: EventKind, *, limit: int) -> Sequence[dict[str, Any]]:
    """The oldest payloads of a kind, oldest first."""
    return session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == kind)
        .order_by(JobEvent.seq)
        .limit(limit)
    ).all()


def reward_spread(session: Session, name: str) -> tuple[int, float, float, float] | None:
    """(n, mean, standard deviation, largest) of a stored reward over all samples that have it; None below two."""
    value = SampleReward.value
    n, mean, square, largest = session.execute(
        select(func.count(), func.avg(value), func.avg(value * value), func.max(value)).where(SampleReward.name == name)
    ).one()
    if n < 2:
        return None
    return n, float(mean), max(0.0, float(square) - float(mean) ** 2) ** 0.5, float(largest)


def reward_model(session: Session, id: UUID) -> RewardModel | None:
    return session.get(RewardModel, id)


def samples_drawn_by(session: Session, job_id: UUID) -> int:
    return session.scalar(select(func.count()).select_from(Sample).where(Sample.job_id == job_id)) or 0

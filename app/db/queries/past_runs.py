"""SQL of what past runs took: the ground that estimates and warnings stand on."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, UnaryExpression, func, select
from sqlalchemy.orm import Session, aliased

from app.db.models import Checkpoint, Job, JobEvent, RewardModel, Sample, SampleReward
from app.domain.enums import EventKind, JobKind, JobStatus


def roots_of(session: Session, checkpoint_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """The base that each checkpoint descends from (all its descendants have one architecture), by the checkpoint."""
    line = (
        select(Checkpoint.id.label("start"), Checkpoint.id.label("id"), Checkpoint.parent_id)
        .where(Checkpoint.id.in_(set(checkpoint_ids)))
        .cte("line", recursive=True)
    )
    line = line.union_all(
        select(line.c.start, Checkpoint.id, Checkpoint.parent_id).join(Checkpoint, Checkpoint.id == line.c.parent_id)
    )
    rows = session.execute(select(line.c.start, line.c.id).where(line.c.parent_id.is_(None)))
    return {row.start: row.id for row in rows}


def recent_jobs(session: Session, kind: JobKind, *, limit: int) -> Sequence[Job]:
    """Jobs of a kind that a worker has begun, newest first."""
    return session.scalars(
        select(Job).where(Job.kind == kind, Job.started_at.is_not(None)).order_by(Job.created_at.desc()).limit(limit)
    ).all()


def succeeded_in_one_go(session: Session, kind: JobKind, *, limit: int) -> Sequence[Job]:
    """Jobs whose start and end say how long they took, newest first; one that only gathered its parts says nothing."""
    part = aliased(Job)
    return session.scalars(
        select(Job)
        .where(Job.kind == kind, Job.status == JobStatus.SUCCEEDED, Job.attempts == 1, Job.started_at.is_not(None))
        .where(~select(part.id).where(part.parent_id == Job.id).exists())
        .order_by(Job.created_at.desc())
        .limit(limit)
    ).all()


def last_events(
    session: Session, job_ids: Collection[UUID], kind: EventKind, *, limit: int
) -> dict[UUID, list[dict[str, Any]]]:
    """The newest payloads of a kind, newest first, by job; nothing for a job without any."""
    return _events(session, job_ids, kind, JobEvent.seq.desc(), limit)


def first_events(
    session: Session, job_ids: Collection[UUID], kind: EventKind, *, limit: int
) -> dict[UUID, list[dict[str, Any]]]:
    """The oldest payloads of a kind, oldest first, by job; nothing for a job without any."""
    return _events(session, job_ids, kind, JobEvent.seq.asc(), limit)


def _events(
    session: Session,
    job_ids: Collection[UUID],
    kind: EventKind,
    order: ColumnElement[int] | UnaryExpression[int],
    limit: int,
) -> dict[UUID, list[dict[str, Any]]]:
    place = func.row_number().over(partition_by=JobEvent.job_id, order_by=order).label("place")
    ranked = (
        select(JobEvent.job_id, JobEvent.payload, place)
        .where(JobEvent.job_id.in_(job_ids), JobEvent.kind == kind)
        .subquery()
    )
    rows = session.execute(
        select(ranked.c.job_id, ranked.c.payload)
        .where(ranked.c.place <= limit)
        .order_by(ranked.c.job_id, ranked.c.place)
    )
    found: dict[UUID, list[dict[str, Any]]] = {}
    for job_id, payload in rows:
        found.setdefault(job_id, []).append(payload)
    return found


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


def samples_drawn_by(session: Session, job_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many samples each job has drawn; nothing for a job that drew none."""
    rows = session.execute(
        select(Sample.job_id, func.count()).where(Sample.job_id.in_(job_ids)).group_by(Sample.job_id)
    )
    return {job_id: n for job_id, n in rows if job_id is not None}

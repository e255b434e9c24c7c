"""SQL of jobs as people and programs look at them, and of what an operator may change."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from app.db.models import Campaign, Checkpoint, Job, JobEvent, RewardAvailability, RewardModel
from app.db.queries.jobs import QUEUE_ORDER
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import EventKind, JobKind, JobStatus


def jobs(
    session: Session,
    *,
    kind: JobKind | None,
    status: JobStatus | None,
    part_of: UUID | None,
    after: Position | None,
    limit: int,
) -> Slice[Job]:
    """Whole jobs, or the parts of one, newest first."""
    statement = select(Job).where(Job.parent_id.is_(None) if part_of is None else Job.parent_id == part_of)
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


def metrics(session: Session, job_id: UUID, *, after: int = 0, most: int | None = None) -> Sequence[dict[str, Any]]:
    """The rows of the per-epoch series as they were reported, those after an event number.

    Of more than `most` rows, every k-th and the last: the others are not even read.
    """
    is_wanted = (JobEvent.job_id == job_id, JobEvent.kind == EventKind.METRICS, JobEvent.seq > after)
    statement = select(JobEvent.payload).where(*is_wanted).order_by(JobEvent.seq)
    if most is not None:
        n = session.scalar(select(func.count()).select_from(JobEvent).where(*is_wanted)) or 0
        if n > most:
            place = func.row_number().over(order_by=JobEvent.seq).label("place")
            numbered = select(JobEvent.seq, place).where(*is_wanted).subquery()
            every = -(-n // most)
            kept = session.scalars(
                select(numbered.c.seq).where((numbered.c.place % every == 0) | (numbered.c.place == n))
            ).all()  # numbers first: PostgreSQL may run a window inside IN once for every row
            statement = statement.where(JobEvent.seq.in_(kept))
    return session.scalars(statement).all()


def newest_state(session: Session, job_ids: Collection[UUID]) -> dict[UUID, tuple[int, JobStatus]]:
    """The number of the last event and the status of each of these jobs: whether there is anything new to read."""
    rows = session.execute(select(Job.id, Job.last_event_seq, Job.status).where(Job.id.in_(job_ids)))
    return {id: (seq, status) for id, seq, status in rows}


def queue(session: Session, *, limit: int, for_update: bool = False) -> Sequence[Job]:
    """Queued jobs, first in line first; parts stand where their wholes do and are left out."""
    is_whole = Job.parent_id.is_(None)
    statement = select(Job).where(Job.status == JobStatus.QUEUED, is_whole).order_by(*QUEUE_ORDER).limit(limit)
    if for_update:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    return session.scalars(statement).all()


def align_parts(session: Session, job_ids: Collection[UUID]) -> None:
    """Put the waiting parts of these jobs where their wholes stand in line."""
    whole = aliased(Job)
    of_whole = whole.id == Job.parent_id
    session.execute(
        update(Job)
        .where(Job.parent_id.in_(job_ids), Job.status == JobStatus.QUEUED)
        .values(
            queue_position=select(whole.queue_position).where(of_whole).scalar_subquery(),
            priority=select(whole.priority).where(of_whole).scalar_subquery(),
        )
        .execution_options(synchronize_session=False)
    )


def status_of(session: Session, job_id: UUID) -> JobStatus | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))


def checkpoint_at(session: Session, job_id: UUID, epoch: int) -> UUID | None:
    return session.scalar(
        select(Checkpoint.id).where(
            Checkpoint.job_id == job_id, Checkpoint.epoch == epoch, Checkpoint.deleted_at.is_(None)
        )
    )


def campaign(session: Session, campaign_id: UUID) -> Campaign | None:
    return session.get(Campaign, campaign_id)


def reward_model_ids(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that exist."""
    return set(session.scalars(select(RewardModel.id).where(RewardModel.id.in_(ids))))


def reported_rewards(session: Session) -> list[tuple[str, dict[str, Any], datetime]]:
    """(name, description, when) of every reward that a worker has reported."""
    rows = session.scalars(select(RewardAvailability).order_by(RewardAvailability.name))
    return [(row.name, row.info, row.updated_at) for row in rows]

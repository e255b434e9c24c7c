"""What the monitor asks of the database at every scrape: counts over the jobs, never over votes or samples."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Float, case, cast, extract, func, select
from sqlalchemy.orm import Session

from app.db.models import Job, JobEvent
from app.db.queries.jobs import has_no_open_part
from app.domain.enums import EventKind, JobKind, JobStatus


class Durations(NamedTuple):
    """Seconds that finished jobs of a kind took in their last attempt, as a cumulative histogram."""

    kind: JobKind
    status: JobStatus
    at_most: list[int]
    """How many took no longer than each bound asked for."""
    n: int
    total_seconds: float


def job_counts(session: Session) -> dict[tuple[JobKind, JobStatus], int]:
    rows = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
    return {(kind, status): n for kind, status, n in rows}


def job_durations(session: Session, bounds: Sequence[float]) -> list[Durations]:
    """Histograms of how long jobs took, by kind and how they ended."""
    seconds = _seconds_taken(session)
    at_most = [func.sum(case((seconds <= bound, 1), else_=0)) for bound in bounds]
    rows = session.execute(
        select(Job.kind, Job.status, func.count(), func.sum(seconds), *at_most)
        .where(Job.started_at.is_not(None), Job.finished_at.is_not(None))
        .group_by(Job.kind, Job.status)
    )
    return [
        Durations(kind, status, [int(count) for count in counts], n, float(total))
        for kind, status, n, total, *counts in rows
    ]


def oldest_queued(session: Session) -> datetime | None:
    """When the job was submitted that has waited longest for a worker; None where none waits."""
    return session.scalar(select(func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED, has_no_open_part()))


def last_heartbeats(session: Session) -> dict[str, datetime]:
    """For every worker that holds a job, the oldest heartbeat among its jobs."""
    rows = session.execute(
        select(Job.worker, func.min(Job.heartbeat_at))
        .where(Job.status == JobStatus.RUNNING, Job.worker.is_not(None), Job.heartbeat_at.is_not(None))
        .group_by(Job.worker)
    )
    return {worker: moment for worker, moment in rows if worker is not None and moment is not None}


def last_usage(session: Session) -> list[tuple[str, dict[str, Any]]]:
    """What each running job last reported of its use of its machine, with the worker that holds it."""
    newest = (
        select(JobEvent.job_id, func.max(JobEvent.seq).label("seq"))
        .join(Job, Job.id == JobEvent.job_id)
        .where(Job.status == JobStatus.RUNNING, JobEvent.kind == EventKind.WORKER)
        .group_by(JobEvent.job_id)
        .subquery()
    )
    rows = session.execute(
        select(Job.worker, JobEvent.payload)
        .join(newest, (newest.c.job_id == JobEvent.job_id) & (newest.c.seq == JobEvent.seq))
        .join(Job, Job.id == JobEvent.job_id)
    )
    return [(worker or "", payload) for worker, payload in rows]


def _seconds_taken(session: Session) -> ColumnElement[float]:
    if session.get_bind().dialect.name == "postgresql":
        return cast(extract("epoch", Job.finished_at - Job.started_at), Float)
    return (func.julianday(Job.finished_at) - func.julianday(Job.started_at)) * 86_400.0

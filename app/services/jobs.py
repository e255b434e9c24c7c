"""Jobs that were submitted: list, follow, cancel, and start again."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app import __version__
from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.adapters.resume_states import delete_state
from app.db.models import Job
from app.db.queries import job_lists as queries
from app.db.queries import jobs as job_queries
from app.db.queries.keyset import Position, Slice
from app.db.session import Database, run_after_commit
from app.domain.curves import averaged_down
from app.domain.enums import EventKind, JobKind, JobStatus
from app.domain.errors import NotFoundError
from app.domain.jobs import require_cancellable, require_restartable
from app.services import audit
from app.services.accounts import Principal
from app.services.job_views import JobEventView, JobView, view_event, view_job

_EPOCHS_A_POINT = 3  # of a downsampled curve, at most: reading ten thousand rows takes seconds


def list_jobs(
    session: Session,
    *,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    part_of: UUID | None = None,
    after: Position | None = None,
    limit: int = 50,
) -> Slice[JobView]:
    """Newest first: whole jobs, or the parts of one."""
    return queries.jobs(session, kind=kind, status=status, part_of=part_of, after=after, limit=limit).map(view_job)


def list_parts(session: Session, job_id: UUID) -> list[JobView]:
    """The jobs that each do a part of this one, in the order of their seeds; none where it is done in one piece."""
    return [view_job(part) for part in job_queries.parts_of(session, job_id)]


def get_job(session: Session, job_id: UUID) -> JobView:
    """Raises NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise _unknown(job_id)
    return view_job(job)


def cancel(session: Session, who: Principal, job_id: UUID, now: datetime) -> JobView:
    """A queued job ends at once; a running one is asked to stop, and does so after saving a resumable state.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended already.
    """
    job = lock_job(session, job_id)
    require_cancellable(job.status)
    audit.record(session, who.user_id, "job.cancel", job_id, now)
    for one in (*job_queries.parts_of(session, job_id, for_update=True), job):
        if one.status is JobStatus.QUEUED:
            job_queries.finish(session, one.id, JobStatus.CANCELLED, now)
            session.refresh(one)
        elif one.status is JobStatus.RUNNING:
            one.cancel_requested = True
    session.flush()
    return view_job(job)


def resume(session: Session, queue: JobQueue, who: Principal, job_id: UUID, now: datetime) -> JobView:
    """Queue a failed or cancelled job again; it goes on from its last resumable state, or from the start without one.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it is queued, running or has succeeded.
    """
    audit.record(session, who.user_id, "job.resume", job_id, now)
    return queue_again(session, queue, job_id, now, from_start=False)


def retry(
    session: Session,
    queue: JobQueue,
    database: Database,
    blobs: BlobStore,
    who: Principal,
    job_id: UUID,
    now: datetime,
) -> JobView:
    """Queue a failed or cancelled job again, from the start. Its log goes on where it was. Raises as `resume` does.

    The resumable state that it drops is deleted once the transaction has committed.
    """
    audit.record(session, who.user_id, "job.retry", job_id, now)
    dropped = lock_job(session, job_id).resume_sha256
    view = queue_again(session, queue, job_id, now, from_start=True)
    run_after_commit(session, lambda: delete_state(database, blobs, dropped))
    return view


def list_events(session: Session, job_id: UUID, *, after: int = 0, limit: int = 1000) -> list[JobEventView]:
    """The log after an event's number, oldest first.

    Raises:
        NotFoundError: there is no such job.
    """
    if queries.status_of(session, job_id) is None:
        raise _unknown(job_id)
    return [view_event(row) for row in queries.events(session, job_id, after=after, limit=limit)]


def follow(session: Session, job_id: UUID, *, after: int, limit: int = 500) -> tuple[list[JobEventView], bool]:
    """The next events, and whether they are the last: the job has ended and its log is read.

    Raises:
        NotFoundError: there is no such job.
    """
    status = queries.status_of(session, job_id)  # before the events: a final status comes after its last event
    if status is None:
        raise _unknown(job_id)
    rows = queries.events(session, job_id, after=after, limit=limit)
    return [view_event(row) for row in rows], status.is_final and len(rows) < limit


def newest_state(session: Session, job_ids: Collection[UUID]) -> dict[UUID, tuple[int, bool]]:
    """The number of each job's last event, and whether the job has ended; unknown jobs are left out."""
    found = queries.newest_state(session, job_ids)
    return {id: (seq, status.is_final) for id, (seq, status) in found.items()}


def metrics(session: Session, job_id: UUID, *, points: int | None = None) -> dict[str, list[Any]]:
    """The per-epoch series as columns of equal length; a value that an epoch did not report is null.

    An epoch that was repeated after a resume counts as it was last reported; what was reported before a job was
    started over does not count. With `points`, longer series are averaged down to so many, very long
    ones from a few evenly spread epochs a point.

    Raises:
        NotFoundError: there is no such job.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise _unknown(job_id)
    most = None if points is None else _EPOCHS_A_POINT * points
    found = queries.metrics(session, job_id, after=job.inputs.get("since_seq", 0), most=most)
    rows = {row.get("epoch"): row for row in found}
    names = dict.fromkeys(["epoch", *(name for row in rows.values() for name in row)])
    columns = {name: [row.get(name) for row in rows.values()] for name in names}
    return columns if points is None else averaged_down(columns, points)


def queue_again(
    session: Session,
    queue: JobQueue,
    job_id: UUID,
    now: datetime,
    *,
    from_start: bool,
    even_if_succeeded: bool = False,
) -> JobView:
    """Queue an ended job again, with those of its parts that came to nothing. Raises as `resume` does; a job with a
    raised budget may also have succeeded."""
    job = lock_job(session, job_id)
    if not (even_if_succeeded and job.status is JobStatus.SUCCEEDED):
        require_restartable(job.status)
    parts = job_queries.parts_of(session, job_id, for_update=True)
    again = [*(part for part in parts if part.status in (JobStatus.FAILED, JobStatus.CANCELLED)), job]
    for one in again:
        _restart(one, from_start=from_start)
    session.flush()
    announce_queued(session, queue, again, now)
    return view_job(job)


def _restart(job: Job, *, from_start: bool) -> None:
    job.status = JobStatus.QUEUED
    job.cancel_requested = False
    job.attempts_without_progress = 0
    job.workers_lost = 0
    job.version = __version__
    job.error = None
    job.finished_at = None
    job.worker = None
    if from_start:
        job.resume_sha256 = None
        job.progress = 0.0
        job.stage = ""
        job.result = {}
        job.inputs = job.inputs | {"since_seq": job.last_event_seq}  # curves and alarms begin anew


def announce_queued(session: Session, queue: JobQueue, jobs: Sequence[Job], now: datetime) -> None:
    """Note that jobs are queued, and send their messages once the transaction has committed.

    A broker that does not answer is asked once for all of them; the reaper sends what did not arrive.
    """
    for job in jobs:
        job_queries.append_event(session, job.id, EventKind.STATUS, {"status": JobStatus.QUEUED.value}, now)
        job.sent_at = now
    session.flush()
    messages = [(job.queue, job.kind, job.id) for job in jobs]
    run_after_commit(session, lambda: all(queue.send(*message) for message in messages))


def lock_job(session: Session, job_id: UUID) -> Job:
    """The job, kept from changing until the transaction ends. Raises NotFoundError."""
    job = queries.locked_job(session, job_id)
    if job is None:
        raise _unknown(job_id)
    return job


def _unknown(job_id: UUID) -> NotFoundError:
    return NotFoundError(f"There is no job {job_id}; GET /api/v1/jobs lists them.")

"""What becomes of a running job whose process or worker was lost: cancelled, queued again, or failed for good."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import JobStatus
from app.domain.jobs import MAX_ATTEMPTS_WITHOUT_PROGRESS, MAX_WORKERS_LOST, ask_for_less


def recover(session: Session, claim: Claim, *, reason: str, now: datetime, worker_lost: bool = False) -> bool:
    """Settle a lost attempt. `reason` completes the sentence "The job's process ...".

    Args:
        worker_lost: the worker or the database went away with it, which is no sign of a fault of the job's.

    Returns whether the job is queued again; a claim that is no longer held is left alone.
    """
    job = queries.held(session, claim)
    if job is None:
        return False
    if job.cancel_requested:
        queries.finish(session, job.id, JobStatus.CANCELLED, now)
        return False
    n, limit = job.attempts_without_progress, MAX_ATTEMPTS_WITHOUT_PROGRESS
    values: dict[str, Any] = {}
    if worker_lost:
        n, limit = job.workers_lost + 1, MAX_WORKERS_LOST
        values = {"workers_lost": n, **queries.WITHOUT_THIS_ATTEMPT}
    if n < limit:
        start = "its last saved state" if job.resume_sha256 else "the start"
        message = f"The job's process {reason}; it goes on from {start}."
        queries.requeue(session, job.id, now, message=message, values=values)
        return True
    error = (
        f"The job's process {reason}, {limit} times in a row without getting any further. "
        f"Look into the worker's log, {ask_for_less(job.kind, job.spec)} or give the worker more memory; "
        "then resume the job."
    )
    queries.finish(session, job.id, JobStatus.FAILED, now, error=error)
    return False

"""What becomes of a running job whose process or worker was lost: cancelled, queued again, or failed for good."""

from datetime import datetime

from sqlalchemy.orm import Session

from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import JobStatus
from app.domain.jobs import MAX_ATTEMPTS_WITHOUT_PROGRESS


def recover(session: Session, claim: Claim, *, reason: str, now: datetime) -> bool:
    """Settle a lost attempt. `reason` completes the sentence "The job's process ...".

    Returns whether the job is queued again; a claim that is no longer held is left alone.
    """
    job = queries.held(session, claim)
    if job is None:
        return False
    if job.cancel_requested:
        queries.finish(session, job.id, JobStatus.CANCELLED, now)
        return False
    if job.attempts_without_progress < MAX_ATTEMPTS_WITHOUT_PROGRESS:
        start = "its last saved state" if job.resume_sha256 else "the start"
        queries.requeue(session, job.id, now, message=f"The job's process {reason}; it goes on from {start}.")
        return True
    error = (
        f"The job's process {reason}, {MAX_ATTEMPTS_WITHOUT_PROGRESS} times in a row without getting any further. "
        "Look into the worker's log, ask for less (smaller batches, fewer samples) or give the worker more memory; "
        "then resume the job."
    )
    queries.finish(session, job.id, JobStatus.FAILED, now, error=error)
    return False

"""SQL of a job's life. Every change of a running job names the attempt that may make it: the fence."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.db.models import Job, JobEvent
from app.db.queries.webhooks import announce_job_end
from app.domain.enums import EventKind, JobKind, JobStatus

QUEUE_ORDER = (Job.priority.desc(), Job.queue_position, Job.created_at, Job.id)
"""Who is first in line."""


class Claim(NamedTuple):
    """One attempt at one job. Whoever holds it may write; once the job is claimed again, nobody else may."""

    job_id: UUID
    attempt: int


def get_job(session: Session, job_id: UUID) -> Job | None:
    return session.get(Job, job_id, populate_existing=True)


def claim(session: Session, job_id: UUID, *, worker: str, now: datetime) -> Claim | None:
    """Take a queued job; None where it is not queued (any more), so that a second message is a no-op."""
    attempt = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            attempts=Job.attempts + 1,
            attempts_without_progress=Job.attempts_without_progress + 1,
            worker=worker,
            started_at=now,
            heartbeat_at=now,
            finished_at=None,
            error=None,
            eta_seconds=None,
        )
        .returning(Job.attempts)
        .execution_options(synchronize_session=False)
    )
    if attempt is None:
        return None
    append_event(session, job_id, EventKind.STATUS, {"status": JobStatus.RUNNING.value, "attempt": attempt}, now)
    return Claim(job_id, attempt)


def claim_first(
    session: Session, kinds: Collection[JobKind], *, worker: str, now: datetime, tries: int = 20
) -> Claim | None:
    """Take the queued job of these kinds that is first in line; None where none is queued.

    Another worker may take it in the same moment; then the next one in line is tried.
    """
    in_line = (
        select(Job.id).where(Job.status == JobStatus.QUEUED, Job.kind.in_(kinds)).order_by(*QUEUE_ORDER).limit(tries)
    )
    for job_id in session.scalars(in_line).all():
        taken = claim(session, job_id, worker=worker, now=now)
        if taken is not None:
            return taken
    return None


def held(session: Session, claim: Claim) -> Job | None:
    """The job, locked for this transaction, if `claim` still holds it; None to one who has lost it."""
    return session.scalar(
        select(Job)
        .where(Job.id == claim.job_id, Job.status == JobStatus.RUNNING, Job.attempts == claim.attempt)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def heartbeat(session: Session, claim: Claim, now: datetime) -> bool | None:
    """Say that the job's worker lives. Returns whether a cancel was asked for; None where the claim is lost."""
    return session.scalar(
        update(Job)
        .where(Job.id == claim.job_id, Job.status == JobStatus.RUNNING, Job.attempts == claim.attempt)
        .values(heartbeat_at=now)
        .returning(Job.cancel_requested)
        .execution_options(synchronize_session=False)
    )


def cancel_requested(session: Session, claim: Claim) -> bool | None:
    """Whether a cancel was asked for; None where the claim is lost."""
    return session.scalar(
        select(Job.cancel_requested).where(
            Job.id == claim.job_id, Job.status == JobStatus.RUNNING, Job.attempts == claim.attempt
        )
    )


def append_event(session: Session, job_id: UUID, kind: EventKind, payload: Mapping[str, Any], now: datetime) -> int:
    """Append to the job's log; numbers are handed out by the row itself, so they have no gaps. Returns the number."""
    seq = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(last_event_seq=Job.last_event_seq + 1)
        .returning(Job.last_event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        raise LookupError(f"there is no job {job_id}")
    session.add(JobEvent(job_id=job_id, seq=seq, kind=kind, payload=dict(payload), created_at=now))
    session.flush()
    return seq


def set_progress(session: Session, job_id: UUID, *, progress: float, stage: str, eta_seconds: float | None) -> None:
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(progress=progress, stage=stage, eta_seconds=eta_seconds)
        .execution_options(synchronize_session=False)
    )


def set_resume_state(session: Session, job_id: UUID, sha256: str) -> None:
    """Point the job at a newer resumable state; the attempt has got somewhere."""
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(resume_sha256=sha256, attempts_without_progress=0)
        .execution_options(synchronize_session=False)
    )


def resume_state_in_use(session: Session, sha256: str) -> bool:
    return session.scalar(select(Job.id).where(Job.resume_sha256 == sha256).limit(1)) is not None


def finish(
    session: Session,
    job_id: UUID,
    status: JobStatus,
    now: datetime,
    *,
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
    keep_state: bool = False,
) -> None:
    """Final status and its event. Success also lets go of the resumable state, unless `keep_state`: then the job can
    be given a larger budget and go on from there."""
    values: dict[str, Any] = {"status": status, "finished_at": now, "error": error, "eta_seconds": None}
    values["cancel_requested"] = False
    if status is JobStatus.SUCCEEDED:
        values |= {"progress": 1.0, "result": dict(result or {}) | _chosen(session, job_id)}
        if not keep_state:
            values["resume_sha256"] = None
    session.execute(update(Job).where(Job.id == job_id).values(values).execution_options(synchronize_session=False))
    payload = {"status": status.value} | ({"message": error} if error else {})
    append_event(session, job_id, EventKind.STATUS, payload, now)
    announce_job_end(session, job_id, now)


def _chosen(session: Session, job_id: UUID) -> dict[str, Any]:
    """The result that somebody chose while the job ran to its end without seeing that it was asked to stop."""
    asked, result = session.execute(select(Job.cancel_requested, Job.result).where(Job.id == job_id)).one()
    if not asked or "chosen_epoch" not in result:
        return {}
    return {name: result[name] for name in ("checkpoint_id", "chosen_epoch")}


def requeue(session: Session, job_id: UUID, now: datetime, *, message: str, count_attempt: bool = True) -> None:
    """Back to the queue after its worker was lost; `message` says why.

    `count_attempt=False` takes the attempt back from the tally of fruitless ones: an orderly shutdown is no failure.
    """
    values: dict[str, Any] = {"status": JobStatus.QUEUED, "sent_at": None, "eta_seconds": None, "worker": None}
    if not count_attempt:
        values["attempts_without_progress"] = Job.attempts_without_progress - 1
    session.execute(update(Job).where(Job.id == job_id).values(values).execution_options(synchronize_session=False))
    append_event(session, job_id, EventKind.STATUS, {"status": JobStatus.QUEUED.value, "message": message}, now)


def stale_claims(session: Session, heartbeat_before: datetime) -> list[Claim]:
    """Claims of running jobs that no worker has vouched for since `heartbeat_before`."""
    rows = session.execute(
        select(Job.id, Job.attempts)
        .where(Job.status == JobStatus.RUNNING, Job.heartbeat_at < heartbeat_before)
        .order_by(Job.created_at)
    )
    return [Claim(*row) for row in rows]


def unsent(session: Session, sent_before: datetime, *, limit: int) -> Sequence[Job]:
    """Queued jobs, first in line first, that were never sent or last sent before `sent_before`."""
    return session.scalars(
        select(Job)
        .where(Job.status == JobStatus.QUEUED, or_(Job.sent_at.is_(None), Job.sent_at < sent_before))
        .order_by(*QUEUE_ORDER)
        .limit(limit)
    ).all()


def kind_of(session: Session, job_id: UUID) -> JobKind | None:
    return session.scalar(select(Job.kind).where(Job.id == job_id))


def mark_sent(session: Session, job_id: UUID, *, sent_before: datetime, now: datetime) -> bool:
    """Reserve the sending of a queued job's message; of several senders one gets True."""
    marked = session.scalar(
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.QUEUED,
            or_(Job.sent_at.is_(None), Job.sent_at < sent_before),
        )
        .values(sent_at=now)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return marked is not None

"""SQL of a job's life. Every change of a running job names the attempt that may make it: the fence."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import Session, aliased

from app.db.models import Job, JobEvent
from app.db.queries.webhooks import announce_job_end
from app.domain.enums import EventKind, JobKind, JobStatus, WorkQueue

QUEUE_ORDER = (Job.priority.desc(), Job.queue_position, Job.created_at, Job.id)
"""Who is first in line."""


WITHOUT_THIS_ATTEMPT = {
    "attempts_without_progress": case(
        (Job.attempts_without_progress > 0, Job.attempts_without_progress - 1), else_=0
    )  # it is 0 where the attempt has got on
}
"""For `requeue`: an attempt that ended through no fault of the job's is no fruitless one."""

_UNFINISHED = (JobStatus.QUEUED, JobStatus.RUNNING)


class Claim(NamedTuple):
    """One attempt at one job. Whoever holds it may write; once the job is claimed again, nobody else may."""

    job_id: UUID
    attempt: int


class Waiting(NamedTuple):
    """A queued job as a sender of messages sees it."""

    job_id: UUID
    kind: JobKind
    sent_at: datetime | None


def get_job(session: Session, job_id: UUID) -> Job | None:
    return session.get(Job, job_id, populate_existing=True)


def claim(session: Session, job_id: UUID, *, worker: str, now: datetime) -> Claim | None:
    """Take a queued job; None where it is not queued (any more), so that a second message is a no-op, or where parts
    of it are not done."""
    attempt = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED, has_no_open_part())
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
    session: Session, queues: Collection[WorkQueue], *, worker: str, now: datetime, tries: int = 20
) -> Claim | None:
    """Take the job that is first in line in these queues; None where none waits.

    Another worker may take it in the same moment; then the next one in line is tried.
    """
    in_line = (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.queue.in_(queues), has_no_open_part())
        .order_by(*QUEUE_ORDER)
        .limit(tries)
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
        .values(resume_sha256=sha256, attempts_without_progress=0, workers_lost=0)
        .execution_options(synchronize_session=False)
    )


def resume_state_in_use(session: Session, sha256: str) -> bool:
    return session.scalar(select(Job.id).where(Job.resume_sha256 == sha256).limit(1)) is not None


def succeeded_with_state(session: Session, *, before: datetime) -> Sequence[Job]:
    """Jobs that succeeded before then and could still be given a larger budget."""
    return session.scalars(
        select(Job)
        .where(Job.status == JobStatus.SUCCEEDED, Job.resume_sha256.is_not(None), Job.finished_at < before)
        .order_by(Job.finished_at, Job.id)
    ).all()


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


def requeue(session: Session, job_id: UUID, now: datetime, *, message: str, values: Mapping[str, Any] = {}) -> None:
    """Back to the queue after its worker was lost; `message` says why, `values` are further columns to set."""
    values = {"status": JobStatus.QUEUED, "sent_at": None, "eta_seconds": None, "worker": None, **values}
    session.execute(update(Job).where(Job.id == job_id).values(values).execution_options(synchronize_session=False))
    append_event(session, job_id, EventKind.STATUS, {"status": JobStatus.QUEUED.value, "message": message}, now)


def heartbeats(session: Session) -> dict[Claim, datetime | None]:
    """The last heartbeat under every claim of a running job."""
    rows = session.execute(
        select(Job.id, Job.attempts, Job.heartbeat_at).where(Job.status == JobStatus.RUNNING).order_by(Job.created_at)
    )
    return {Claim(job_id, attempt): moment for job_id, attempt, moment in rows}


def waiting(session: Session, queue: WorkQueue, *, limit: int) -> list[Waiting]:
    """Jobs of a queue that a worker could take, first in line first."""
    rows = session.execute(
        select(Job.id, Job.kind, Job.sent_at)
        .where(Job.status == JobStatus.QUEUED, Job.queue == queue, has_no_open_part())
        .order_by(*QUEUE_ORDER)
        .limit(limit)
    )
    return [Waiting(*row) for row in rows]


def mark_sent(session: Session, job_id: UUID, *, last_sent: datetime | None, now: datetime) -> bool:
    """Reserve the sending of a queued job's message, last sent at `last_sent`; of several senders one gets True."""
    marked = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED, Job.sent_at.is_not_distinct_from(last_sent))
        .values(sent_at=now)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return marked is not None


def versions_in_line(session: Session) -> Sequence[str]:
    """Which versions of Tastemaker have submitted what waits now."""
    return session.scalars(select(Job.version).where(Job.status == JobStatus.QUEUED).distinct()).all()


def parts_of(session: Session, job_id: UUID, *, for_update: bool = False) -> Sequence[Job]:
    """The jobs that do a part of this one, in the order of their seeds."""
    statement = select(Job).where(Job.parent_id == job_id).order_by(Job.id)
    if for_update:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    return sorted(session.scalars(statement), key=lambda part: part.spec["seed"])


def whole_without_open_parts(session: Session, part_id: UUID) -> Job | None:
    """The queued job that this one is a part of, if none of its parts is open any more."""
    part = aliased(Job)
    return session.scalar(
        select(Job)
        .join(part, part.parent_id == Job.id)
        .where(part.id == part_id, Job.status == JobStatus.QUEUED, has_no_open_part())
    )


def progress_of_parts(session: Session) -> dict[UUID, tuple[int, int, float]]:
    """(ended, all, mean progress of all) for every queued job that waits for its parts."""
    part = aliased(Job)
    ended = func.count().filter(part.status.not_in(_UNFINISHED))
    progress = func.sum(part.progress).filter(part.status.in_(_UNFINISHED))
    rows = session.execute(
        select(Job.id, ended, func.count(), progress)
        .join(part, part.parent_id == Job.id)
        .where(Job.status == JobStatus.QUEUED)
        .group_by(Job.id)
    )
    return {id: (done, n, (done + (sum_open or 0.0)) / n) for id, done, n, sum_open in rows if done < n}


def has_no_open_part() -> ColumnElement[bool]:
    """Of a job: whether it waits for no part of its own."""
    part = aliased(Job)
    return ~select(part.id).where(part.parent_id == Job.id, part.status.in_(_UNFINISHED)).exists()

"""Steering jobs: their place in the queue, a larger budget, another epoch as the result."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.queue import JobQueue
from app.db.models import Checkpoint, Job
from app.db.queries import job_lists as queries
from app.db.queries import jobs as job_queries
from app.domain.enums import EventKind, JobStatus
from app.domain.errors import ConflictError, InvalidSpecError, NotFoundError
from app.domain.jobs import EXTENDABLE_KINDS, require_ended, require_queued
from app.domain.specs import parse_spec
from app.services import audit
from app.services.accounts import Principal
from app.services.job_views import JobView, view_job
from app.services.jobs import lock_job, queue_again

Direction = Literal["up", "down", "top"]

_LONGEST_QUEUE = 1000


def queue(session: Session, *, limit: int = 100) -> list[JobView]:
    """Queued jobs in the order in which workers will take them."""
    return [view_job(job) for job in queries.queue(session, limit=limit)]


def move(session: Session, who: Principal, job_id: UUID, direction: Direction, now: datetime) -> JobView:
    """Give a queued job another place in line. Passing a job of another priority takes on that priority.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it is not queued (any more).
    """
    # the whole line in its order, then the job: two who move jobs at once would each wait for the other's
    line = list(queries.queue(session, limit=_LONGEST_QUEUE, for_update=True))
    job = lock_job(session, job_id)
    require_queued(job.status)
    place = next((index for index, other in enumerate(line) if other.id == job_id), None)
    if place is None:
        raise ConflictError(f"More than {_LONGEST_QUEUE} jobs wait before this one; give it a higher priority instead.")
    target = {"up": max(0, place - 1), "down": min(len(line) - 1, place + 1), "top": 0}[direction]
    if target != place:
        job.priority = line[target].priority
        positions = sorted(other.queue_position for other in line)
        line.insert(target, line.pop(place))
        last = positions[0] - 1
        for other, position in zip(line, positions, strict=True):
            other.queue_position = last = max(position, last + 1)
        audit.record(session, who.user_id, "job.move", job_id, now, direction=direction)
        session.flush()
        queries.align_parts(session, [other.id for other in line])
    return view_job(job)


def extend(session: Session, queue: JobQueue, who: Principal, job_id: UUID, *, epochs: int, now: datetime) -> JobView:
    """Raise the budget of an ended finetune to `epochs` in all; it goes on from its last state.

    A learning rate that decays is stretched over the new length; a constant one goes on as it was, to the weights
    that a run of this length from the start would have come to.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has not ended, is of another kind, or kept no state.
        InvalidSpecError: `epochs` is not more than it has now, or too many.
    """
    job = lock_job(session, job_id)
    if job.kind not in EXTENDABLE_KINDS:
        raise ConflictError(f"A {job.kind.value} job has no budget of epochs; only finetunes can be extended.")
    require_ended(job.status, "its budget can be raised")
    if job.resume_sha256 is None:
        raise ConflictError("This run kept no state to go on from; start it over, or duplicate it with more epochs.")
    before = int(job.spec["epochs"])
    if epochs <= before:
        message = f"The run has a budget of {before} epochs already; give it more than that."
        raise InvalidSpecError(message, [{"field": "epochs", "message": message}])
    job.spec = parse_spec(job.kind, job.spec | {"epochs": epochs}).model_dump(mode="json")
    job.progress = job.progress * before / epochs
    message = f"Budget raised from {before} to {epochs} epochs."
    job_queries.append_event(session, job_id, EventKind.LOG, {"message": message}, now)
    audit.record(session, who.user_id, "job.extend", job_id, now, epochs=str(epochs))
    return queue_again(session, queue, job_id, now, from_start=False, even_if_succeeded=True)


def choose_result(session: Session, who: Principal, job_id: UUID, *, epoch: int, now: datetime) -> JobView:
    """Make a saved epoch the result of a finetune, for example the last good one before an alarm; 0 is the base. A run
    that still works is asked to stop.

    Raises:
        NotFoundError: there is no such job, or it has saved no checkpoint at this epoch.
        ConflictError: the job is no finetune.
    """
    job = lock_job(session, job_id)
    if job.kind not in EXTENDABLE_KINDS:
        raise ConflictError(f"A {job.kind.value} job has no epochs to choose from.")
    checkpoint_id = _checkpoint_at(session, job, epoch)
    if job.status is JobStatus.RUNNING:
        job.cancel_requested = True
    elif job.status is JobStatus.QUEUED:
        job_queries.finish(session, job_id, JobStatus.CANCELLED, now)
        session.refresh(job)
    job.result = job.result | {"checkpoint_id": str(checkpoint_id), "chosen_epoch": epoch}
    message = f"{who.name} made epoch {epoch} the result." if epoch else f"{who.name} went back to the base."
    job_queries.append_event(session, job_id, EventKind.LOG, {"message": message}, now)
    audit.record(session, who.user_id, "job.choose_result", job_id, now, epoch=str(epoch))
    session.flush()
    return view_job(job)


def acknowledge(session: Session, who: Principal, job_id: UUID, now: datetime) -> None:
    """Somebody has seen what became of an ended job: it needs nobody any more. Raises NotFoundError."""
    job = lock_job(session, job_id)
    job.inputs = job.inputs | {"seen_seq": job.last_event_seq}
    audit.record(session, who.user_id, "job.seen", job_id, now)
    session.flush()


def _checkpoint_at(session: Session, job: Job, epoch: int) -> UUID:
    if epoch == 0:
        return session.get_one(Checkpoint, UUID(job.spec["checkpoint_id"])).id
    found = queries.checkpoint_at(session, job.id, epoch)
    if found is None:
        raise NotFoundError(f"This run saved no checkpoint at epoch {epoch}; choose one of its evaluated epochs.")
    return found

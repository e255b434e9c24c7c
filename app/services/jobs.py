"""Jobs: submit, list, follow, cancel, and start again."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app import __version__
from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.adapters.resume_states import delete_state
from app.config import Settings
from app.db.models import Checkpoint, Job, LabelSnapshot
from app.db.queries import campaigns as campaign_queries
from app.db.queries import job_lists as queries
from app.db.queries import jobs as job_queries
from app.db.queries import trust as trust_queries
from app.db.queries.keyset import Position, Slice
from app.db.queries.snapshot import votes_for_snapshot
from app.db.session import Database, run_after_commit
from app.domain.curves import averaged_down
from app.domain.enums import Choice, EventKind, JobKind, JobStatus, Priority
from app.domain.errors import InvalidSpecError, NotFoundError
from app.domain.jobs import SUPPORTED_JOB_KINDS, parts_of, queue_of, require_cancellable, require_restartable
from app.domain.specs import (
    AnalyzeSpec,
    EvaluateSpec,
    FinetuneSpec,
    PretrainSpec,
    PushSpec,
    RewardModelSpec,
    SampleSpec,
    Spec,
    parse_spec,
)
from app.services import audit
from app.services.accounts import Principal
from app.services.job_checks import check_references
from app.services.job_views import JobEventView, JobView, view_event, view_job
from app.services.votes import as_vote

_MAX_NAME = 120
_EPOCHS_A_POINT = 3  # of a downsampled curve, at most: reading ten thousand rows takes seconds


@dataclass(frozen=True)
class Submission:
    """What submitting a job needs beside the job."""

    session: Session
    settings: Settings
    blobs: BlobStore
    queue: JobQueue
    who: Principal
    now: datetime


def submit(
    to: Submission,
    kind: JobKind,
    payload: Mapping[str, Any],
    *,
    name: str | None = None,
    priority: Priority = Priority.NORMAL,
) -> JobView:
    """Validate, store, and hand the job to the workers once the transaction has committed.

    A broker that is away loses nothing: the job waits in the database, and a worker's reaper sends it later.

    Raises:
        InvalidSpecError: the spec is not valid, refers to what is not there, or the kind cannot run yet.
    """
    spec = check(to, kind, payload)
    inputs: dict[str, Any] = {}
    if isinstance(spec, RewardModelSpec):
        inputs["snapshot_id"] = str(_freeze_labels(to, spec).id)
    name = (name or _default_name(to.session, kind, spec))[:_MAX_NAME]
    job = _add(to, kind, spec, name=name, inputs=inputs, priority=priority.rank)
    audit.record(to.session, to.who.user_id, "job.submit", job.id, to.now, kind=kind.value, name=job.name)
    parts = parts_of(spec)
    for number, part in enumerate(parts, 1):
        title = f"{name[: _MAX_NAME - 20]}, part {number} of {len(parts)}"
        _add(to, kind, part, name=title, inputs={}, priority=job.priority, whole=job)
    return view_job(job)


def _add(
    to: Submission,
    kind: JobKind,
    spec: Spec,
    *,
    name: str,
    inputs: dict[str, Any],
    priority: int,
    whole: Job | None = None,
) -> Job:
    """Store a queued job and announce it; a part of a `whole` stands where that stands in line."""
    job = Job(
        kind=kind,
        name=name,
        status=JobStatus.QUEUED,
        spec=spec.model_dump(mode="json"),
        inputs=inputs,
        progress=0.0,
        stage="",
        result={},
        priority=priority,
        queue=queue_of(spec),
        attempts=0,
        attempts_without_progress=0,
        cancel_requested=False,
        last_event_seq=0,
        created_by=to.who.user_id,
        created_at=to.now,
    )
    if whole is not None:
        job.parent_id, job.queue, job.queue_position = whole.id, whole.queue, whole.queue_position
    to.session.add(job)
    to.session.flush()
    _announce_queued(to.session, to.queue, job, to.now)
    return job


def check(to: Submission, kind: JobKind, payload: Mapping[str, Any]) -> Spec:
    """What `submit` would queue. Raises InvalidSpecError as it does, before anything is stored."""
    if kind not in SUPPORTED_JOB_KINDS:
        message = f"Jobs of the kind {kind.value!r} cannot run yet; use one of: {_supported_kinds()}."
        raise InvalidSpecError(message, [{"field": "kind", "message": message}])
    spec = parse_spec(kind, payload)
    check_references(to.session, to.settings, spec)
    return spec


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
    for part in job_queries.parts_of(session, job_id):
        if part.status in (JobStatus.FAILED, JobStatus.CANCELLED):
            queue_again(session, queue, part.id, now, from_start=from_start)
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
    session.flush()
    _announce_queued(session, queue, job, now)
    return view_job(job)


def _announce_queued(session: Session, queue: JobQueue, job: Job, now: datetime) -> None:
    job_queries.append_event(session, job.id, EventKind.STATUS, {"status": JobStatus.QUEUED.value}, now)
    job.sent_at = now  # the reaper sends it again where this message does not arrive
    session.flush()
    line, kind, job_id = job.queue, job.kind, job.id
    run_after_commit(session, lambda: queue.send(line, kind, job_id))


def _freeze_labels(to: Submission, spec: RewardModelSpec) -> LabelSnapshot:
    """Votes that count now, each with what its rater's health lets it weigh."""
    votes = votes_for_snapshot(to.session, spec.campaign_id)
    if not any(Choice(vote["choice"]).left_share is not None for vote in votes):
        message = "This campaign has no votes to learn from yet (skips and 'both bad' do not count); rate some pairs."
        raise InvalidSpecError(message, [{"field": "spec.campaign_id", "message": message}])
    weights: dict[UUID, float] = {}
    if spec.weigh_raters:
        rows = campaign_queries.votes(to.session, spec.campaign_id)
        from app.domain.rater_health import rater_weights  # imports numpy

        weights = rater_weights([as_vote(row) for row in rows if not row.is_retracted])
    for vote in votes:
        vote["weight"] = round(weights.get(UUID(vote["rater"]), 1.0), 6)
    lines = "".join(json.dumps(vote, sort_keys=True, separators=(",", ":")) + "\n" for vote in votes).encode()
    snapshot = LabelSnapshot(
        campaign_id=spec.campaign_id, sha256=to.blobs.put(lines), n_labels=len(votes), created_at=to.now
    )
    to.session.add(snapshot)
    to.session.flush()
    trust_queries.add_snapshot_raters(to.session, snapshot.id, Counter(UUID(vote["rater"]) for vote in votes), weights)
    return snapshot


def _default_name(session: Session, kind: JobKind, spec: Spec) -> str:
    match spec:
        case SampleSpec():
            steered = "" if spec.guidance is None else f" guided by {spec.guidance.prompt or spec.guidance.reward}"
            return f"Draw {spec.n} from {_checkpoint_name(session, spec.checkpoint_id)}{steered}"
        case RewardModelSpec():
            campaign = queries.campaign(session, spec.campaign_id)
            return f"Reward from {campaign.name if campaign else spec.campaign_id}"
        case FinetuneSpec():
            rewards: Sequence[str] = [term.name.replace("_", " ") for term in spec.reward]
            return f"{_checkpoint_name(session, spec.checkpoint_id)} toward {' + '.join(rewards)}"
        case EvaluateSpec():
            return f"Evaluate {len(spec.checkpoint_ids)} checkpoints"
        case PushSpec():
            return f"Push {_checkpoint_name(session, spec.checkpoint_id)} to {spec.repo_id}"
        case AnalyzeSpec():
            return f"{spec.kind.label} of {_checkpoint_name(session, spec.checkpoint_ids[-1])}"
        case PretrainSpec():
            return f"Pretrain {spec.name}"
        case _:
            return kind.value


def _checkpoint_name(session: Session, checkpoint_id: UUID) -> str:
    return session.get_one(Checkpoint, checkpoint_id).name


def lock_job(session: Session, job_id: UUID) -> Job:
    """The job, kept from changing until the transaction ends. Raises NotFoundError."""
    job = queries.locked_job(session, job_id)
    if job is None:
        raise _unknown(job_id)
    return job


def _unknown(job_id: UUID) -> NotFoundError:
    return NotFoundError(f"There is no job {job_id}; GET /api/v1/jobs lists them.")


def _supported_kinds() -> str:
    return ", ".join(kind.value for kind in JobKind if kind in SUPPORTED_JOB_KINDS)

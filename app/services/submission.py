"""Submitting a job: check it, freeze what it rests on, queue it in one piece or in parts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.models import Checkpoint, Job, LabelSnapshot
from app.db.queries import campaigns as campaign_queries
from app.db.queries import job_lists as queries
from app.db.queries import trust as trust_queries
from app.db.queries.snapshot import votes_for_snapshot
from app.domain.enums import Choice, JobKind, JobStatus, Priority
from app.domain.errors import InvalidSpecError
from app.domain.jobs import SUPPORTED_JOB_KINDS, parts_of, queue_of
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
from app.services.job_views import JobView, view_job
from app.services.jobs import announce_queued
from app.services.votes import as_vote

_MAX_NAME = 120


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
    specs = parts_of(spec)
    parts = [
        _add(
            to, kind, part, name=f"{name[: _MAX_NAME - 20]}, part {number} of {len(specs)}", inputs={},
            priority=job.priority, whole=job,
        )
        for number, part in enumerate(specs, 1)
    ]  # fmt: skip
    announce_queued(to.session, to.queue, [*parts, job], to.now)
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
    """Store a queued job; a part of a `whole` stands where that stands in line."""
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
    return job


def check(to: Submission, kind: JobKind, payload: Mapping[str, Any]) -> Spec:
    """What `submit` would queue. Raises InvalidSpecError as it does, before anything is stored."""
    if kind not in SUPPORTED_JOB_KINDS:
        message = f"Jobs of the kind {kind.value!r} cannot run yet; use one of: {_supported_kinds()}."
        raise InvalidSpecError(message, [{"field": "kind", "message": message}])
    spec = parse_spec(kind, payload)
    check_references(to.session, to.settings, spec)
    return spec


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
            if len(spec.checkpoint_ids) == 1:
                return f"Evaluate {_checkpoint_name(session, spec.checkpoint_ids[0])}"
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


def _supported_kinds() -> str:
    return ", ".join(kind.value for kind in JobKind if kind in SUPPORTED_JOB_KINDS)

"""Jobs as the API and the pages show them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.db.models import Job, JobEvent
from app.domain.documented import Documented
from app.domain.enums import EventKind, JobKind, JobStatus, Priority, WorkQueue


class JobLinks(BaseModel):
    self: str
    events: str
    metrics: str


class JobView(Documented):
    id: UUID
    kind: JobKind
    name: str
    status: JobStatus
    progress: float
    """0 to 1."""
    stage: str
    """What it is doing, in words."""
    eta_seconds: float | None
    """Honest guess of the time left; empty until it means something."""
    spec: dict[str, Any]
    """Every hyperparameter of the run, defaults filled in."""
    error: str | None
    result: dict[str, Any]
    cancel_requested: bool
    priority: Priority
    """Workers take queued jobs of a higher priority first."""
    paused: bool
    """Whether it stopped itself at an alarm; `error` says why, and a resume goes on."""
    resumable: bool
    """Whether a resumable state was saved, from which a resume goes on."""
    attempts: int
    queue: WorkQueue
    """What it needs of the worker that takes it."""
    part_of: UUID | None
    """The job that this one does a part of; that one waits for it."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: JobLinks
    log_begins_after: int = Field(default=0, exclude=True)
    """Events up to this number belong to a life before the job was started over."""
    needs_nobody: bool = Field(default=False, exclude=True)
    """Whether somebody has seen how it ended."""


class JobEventView(BaseModel):
    """One entry of a job's log; `seq` counts from 1 without gaps."""

    model_config = ConfigDict(json_schema_extra={"example": {
        "seq": 2, "kind": "progress", "payload": {"progress": 0.25, "eta_seconds": 30.0, "stage": "epoch 2 of 8"},
        "created_at": "2026-01-01T12:00:00Z",
    }})  # fmt: skip

    seq: int
    kind: EventKind
    payload: dict[str, Any]
    created_at: datetime


def view_job(row: Job) -> JobView:
    path = f"/api/v1/jobs/{row.id}"
    return JobView(
        id=row.id,
        kind=row.kind,
        name=row.name,
        status=row.status,
        progress=row.progress,
        stage=row.stage,
        eta_seconds=row.eta_seconds,
        spec=row.spec,
        error=row.error,
        result=row.result,
        cancel_requested=row.cancel_requested,
        priority=Priority.of_rank(row.priority),
        paused=row.status is JobStatus.CANCELLED and row.error is not None,
        resumable=row.resume_sha256 is not None,
        attempts=row.attempts,
        queue=row.queue,
        part_of=row.parent_id,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        log_begins_after=row.inputs.get("since_seq", 0),
        needs_nobody=row.inputs.get("seen_seq", -1) >= row.last_event_seq,
        links=JobLinks(self=path, events=f"{path}/events", metrics=f"{path}/metrics"),
    )


def view_event(row: JobEvent) -> JobEventView:
    return JobEventView(seq=row.seq, kind=row.kind, payload=row.payload, created_at=row.created_at)

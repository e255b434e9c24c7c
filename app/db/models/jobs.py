"""Queued work and what it reported. The database is the truth; the broker only carries ids."""

import time
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app import __version__
from app.db.base import Base, IdMixin, enum_type
from app.domain.enums import EventKind, JobKind, JobStatus, WorkQueue


def _end_of_queue() -> int:
    """Behind every job that was queued before: microseconds since 1970. Moving a job exchanges positions."""
    return time.time_ns() // 1000


class Job(IdMixin, Base):
    __tablename__ = "job"
    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "status", "created_at"),
        Index(None, "status", "priority", "queue_position"),
        Index(None, "parent_id"),
    )

    kind: Mapped[JobKind] = mapped_column(enum_type(JobKind))
    name: Mapped[str] = mapped_column(String(120))
    status: Mapped[JobStatus] = mapped_column(enum_type(JobStatus), default=JobStatus.QUEUED)
    spec: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What was frozen at submission, for example the label snapshot's id."""
    progress: Mapped[float] = mapped_column(default=0.0)
    stage: Mapped[str] = mapped_column(String(200), default="")
    eta_seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    priority: Mapped[int] = mapped_column(default=0)
    """Jobs of a higher priority are claimed first; see `Priority`."""
    queue_position: Mapped[int] = mapped_column(BigInteger, default=_end_of_queue)
    """Order among queued jobs of one priority: the smallest is claimed first."""
    attempts: Mapped[int] = mapped_column(default=0)
    """How often a worker has claimed this job; also the fence that keeps a lost worker from writing."""
    queue: Mapped[WorkQueue] = mapped_column(enum_type(WorkQueue), default=WorkQueue.GPU, server_default="gpu")
    """Which workers may take it; see `queue_of`."""
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    """The job that this one does a part of; that one is not claimed before all its parts have ended."""
    version: Mapped[str] = mapped_column(String(40), default=__version__, server_default="")
    """Which Tastemaker submitted it: an older worker may not understand it."""
    attempts_without_progress: Mapped[int] = mapped_column(default=0)
    """How often its process died since it last got on."""
    workers_lost: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often it lost its worker since it last got on."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    resume_sha256: Mapped[str | None] = mapped_column(String(64))
    """Blob of the last resumable state."""
    last_event_seq: Mapped[int] = mapped_column(default=0)
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))


class JobEvent(Base):
    """Append-only log of a job, numbered from 1 without gaps; event streams replay it from any `seq`."""

    __tablename__ = "job_event"
    __table_args__ = (Index(None, "job_id", "kind", "seq"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[EventKind] = mapped_column(enum_type(EventKind))
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class DevTrajectories(Base):
    """Rewards of x_0_pred along the denoising trajectories of a run's fixed seeds at one epoch, seed after seed:
    float32, little-endian."""

    __tablename__ = "dev_trajectories"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    rewards: Mapped[bytes] = mapped_column(LargeBinary)


class Worker(Base):
    """A worker process that runs, or that may not take jobs."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    """Host and process id."""
    version: Mapped[str] = mapped_column(String(40))
    queues: Mapped[list[str]]
    """The `WorkQueue`s that it serves."""
    concurrency: Mapped[int]
    """How many jobs it runs at once."""
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    refusal: Mapped[str | None] = mapped_column(Text)
    """Why it takes no jobs; empty where it does."""


class RewardAvailability(Base):
    """The rewards that the workers know, as they last reported them, and whether each can run there."""

    __tablename__ = "reward_availability"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    info: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]

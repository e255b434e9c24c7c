"""SQL of checkpoints and what was measured on them."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, JobEvent, Measurement
from app.db.queries.bulk import insert_or_update
from app.domain.enums import EventKind


def get_checkpoint(session: Session, checkpoint_id: UUID) -> Checkpoint | None:
    return session.get(Checkpoint, checkpoint_id)


def checkpoint_of_epoch(session: Session, job_id: UUID, epoch: int) -> Checkpoint | None:
    """What a job saved after `epoch` finished epochs."""
    return session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.epoch == epoch))


def record_measurements(
    session: Session, checkpoint_id: UUID, measured: Mapping[str, tuple[float, float, int]]
) -> None:
    """Store (mean, standard error, n) by reward name; one that was measured on more samples is kept."""
    rows = [
        {"checkpoint_id": checkpoint_id, "name": name, "mean": mean, "sem": sem, "n": n}
        for name, (mean, sem, n) in measured.items()
    ]
    insert_or_update(session, Measurement, rows, unless_smaller="n")


def epochs_by_checkpoint(session: Session, job_id: UUID) -> dict[UUID, int]:
    """The saved epochs of a job, by the checkpoint's id."""
    return epochs_of_jobs(session, [job_id]).get(job_id, {})


def epochs_of_jobs(session: Session, job_ids: Collection[UUID]) -> dict[UUID, dict[UUID, int]]:
    """`epochs_by_checkpoint` of several jobs; nothing for a job that has saved none."""
    rows = session.execute(
        select(Checkpoint.job_id, Checkpoint.id, Checkpoint.epoch).where(
            Checkpoint.job_id.in_(job_ids), Checkpoint.epoch.is_not(None), Checkpoint.deleted_at.is_(None)
        )
    )
    found: dict[UUID, dict[UUID, int]] = {}
    for job_id, id, epoch in rows:
        if job_id is not None and epoch is not None:
            found.setdefault(job_id, {})[id] = epoch
    return found


def evaluated_epochs(session: Session, job_id: UUID, *, after: int = 0) -> list[dict[str, Any]]:
    """The metrics of the epochs at which a job evaluated its fixed seeds, in the order they were reported."""
    rows = session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.METRICS, JobEvent.seq > after)
        .order_by(JobEvent.seq)
    )
    return [row for row in rows if row.get("eval_reward_mean") is not None]

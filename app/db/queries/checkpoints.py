"""SQL of checkpoints and what was measured on them."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Measurement
from app.db.queries.bulk import insert_or_update


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

"""SQL of the rewards along the trajectories of a run's fixed seeds."""

import sys
from array import array
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import DevTrajectories
from app.db.queries.bulk import insert_or_update


def record_dev_trajectories(session: Session, job_id: UUID, epoch: int, rewards: Sequence[float]) -> None:
    """Store an epoch's values, seed after seed; an epoch that is repeated after a crash replaces its own."""
    row = {"job_id": job_id, "epoch": epoch, "rewards": _little_endian(array("f", rewards)).tobytes()}
    insert_or_update(session, DevTrajectories, [row])


def dev_trajectories(session: Session, job_id: UUID, epoch: int) -> list[float]:
    """The values as they were recorded, but for the rounding to float32; empty where there are none."""
    data = session.scalar(
        select(DevTrajectories.rewards).where(DevTrajectories.job_id == job_id, DevTrajectories.epoch == epoch)
    )
    return _little_endian(array("f", data or b"")).tolist()


def _little_endian(values: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        values.byteswap()
    return values

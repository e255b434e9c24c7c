"""SQL of the list of reward models and of the samples that one is asked about."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import LabelSnapshot, RewardModel, Sample
from app.db.queries.keyset import Position, Slice, newest_first


def reward_models(
    session: Session, *, campaign_id: UUID | None, after: Position | None, limit: int
) -> Slice[RewardModel]:
    """Newest first."""
    statement = select(RewardModel)
    if campaign_id is not None:
        statement = statement.where(RewardModel.campaign_id == campaign_id)
    return newest_first(session, statement, (RewardModel.created_at, RewardModel.id), after=after, limit=limit)


def snapshot_hashes(session: Session, snapshot_ids: Collection[UUID]) -> dict[UUID, str]:
    rows = session.execute(select(LabelSnapshot.id, LabelSnapshot.sha256).where(LabelSnapshot.id.in_(snapshot_ids)))
    return {row[0]: row[1] for row in rows}


def samples_by_id(session: Session, sample_ids: Collection[UUID]) -> dict[UUID, Sample]:
    return {row.id: row for row in session.scalars(select(Sample).where(Sample.id.in_(sample_ids)))}

"""SQL of the graph of who came from what: one step up or down from each kind of thing."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import String, cast, or_, select
from sqlalchemy.orm import Session

from app.db.models import (
    Campaign,
    CampaignCheckpoint,
    Checkpoint,
    Job,
    LabelSnapshot,
    Preference,
    RewardModel,
    SnapshotRater,
    User,
)
from app.db.queries.bulk import in_chunks


def checkpoints(session: Session, ids: Collection[UUID]) -> Sequence[Checkpoint]:
    return [
        row
        for chunk in in_chunks(ids)
        for row in session.scalars(
            select(Checkpoint)
            .where(Checkpoint.id.in_(chunk), Checkpoint.deleted_at.is_(None))
            .order_by(Checkpoint.created_at, Checkpoint.epoch)
        )
    ]


def jobs(session: Session, ids: Collection[UUID]) -> Sequence[Job]:
    return session.scalars(select(Job).where(Job.id.in_(ids)).order_by(Job.created_at)).all()


def reward_models(session: Session, ids: Collection[UUID]) -> Sequence[RewardModel]:
    return session.scalars(select(RewardModel).where(RewardModel.id.in_(ids)).order_by(RewardModel.created_at)).all()


def snapshots(session: Session, ids: Collection[UUID]) -> Sequence[LabelSnapshot]:
    return session.scalars(
        select(LabelSnapshot).where(LabelSnapshot.id.in_(ids)).order_by(LabelSnapshot.created_at)
    ).all()


def campaigns(session: Session, ids: Collection[UUID]) -> Sequence[Campaign]:
    return session.scalars(select(Campaign).where(Campaign.id.in_(ids)).order_by(Campaign.created_at)).all()


def raters(session: Session, ids: Collection[UUID]) -> Sequence[User]:
    return session.scalars(select(User).where(User.id.in_(ids)).order_by(User.name)).all()


def jobs_naming(session: Session, ids: Collection[UUID]) -> list[UUID]:
    """Jobs whose spec names one of these; an id is unique in the whole database, so its text finds those alone. Parts
    are spoken for by their wholes."""
    text = cast(Job.spec, String)
    found: dict[UUID, None] = {}
    for chunk in in_chunks(ids):
        for start in range(0, len(chunk), 50):
            wanted = or_(*(text.contains(str(id)) for id in chunk[start : start + 50]))
            whole = select(Job.id).where(wanted, Job.parent_id.is_(None)).order_by(Job.created_at)
            found |= dict.fromkeys(session.scalars(whole))
    return list(found)


def made_by(session: Session, job_ids: Collection[UUID]) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """(checkpoints, reward models) that these jobs made."""
    saved = session.scalars(
        select(Checkpoint.id).where(Checkpoint.job_id.in_(job_ids), Checkpoint.deleted_at.is_(None))
    ).all()
    return saved, session.scalars(select(RewardModel.id).where(RewardModel.job_id.in_(job_ids))).all()


def campaigns_showing(session: Session, checkpoint_ids: Collection[UUID]) -> Sequence[UUID]:
    return session.scalars(
        select(CampaignCheckpoint.campaign_id).where(CampaignCheckpoint.checkpoint_id.in_(checkpoint_ids)).distinct()
    ).all()


def shown_in(session: Session, campaign_ids: Collection[UUID]) -> Sequence[UUID]:
    return session.scalars(
        select(CampaignCheckpoint.checkpoint_id).where(CampaignCheckpoint.campaign_id.in_(campaign_ids)).distinct()
    ).all()


def snapshots_of(session: Session, campaign_ids: Collection[UUID]) -> Sequence[UUID]:
    return session.scalars(select(LabelSnapshot.id).where(LabelSnapshot.campaign_id.in_(campaign_ids))).all()


def models_of(session: Session, snapshot_ids: Collection[UUID]) -> Sequence[UUID]:
    return session.scalars(select(RewardModel.id).where(RewardModel.snapshot_id.in_(snapshot_ids))).all()


def raters_of(session: Session, campaign_ids: Collection[UUID]) -> Sequence[UUID]:
    """Everybody who has voted in these campaigns."""
    return session.scalars(select(Preference.rater_id).where(Preference.campaign_id.in_(campaign_ids)).distinct()).all()


def raters_in(session: Session, snapshot_ids: Collection[UUID]) -> Sequence[UUID]:
    """Whose votes these snapshots froze. Times cannot tell: imported votes keep those they were given at."""
    return session.scalars(
        select(SnapshotRater.rater_id).where(SnapshotRater.snapshot_id.in_(snapshot_ids)).distinct()
    ).all()


def voted_in(session: Session, rater_ids: Collection[UUID]) -> Sequence[UUID]:
    return session.scalars(select(Preference.campaign_id).where(Preference.rater_id.in_(rater_ids)).distinct()).all()

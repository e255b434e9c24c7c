"""SQL of where a checkpoint comes from and what came of it."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.db.models import Campaign, Checkpoint, Job, LabelSnapshot, RewardModel


def ancestors(session: Session, checkpoint_id: UUID) -> Sequence[Checkpoint]:
    """The checkpoint itself, then its parent, and so on back to the base."""
    line = select(Checkpoint.id, Checkpoint.parent_id).where(Checkpoint.id == checkpoint_id).cte(recursive=True)
    parent = aliased(Checkpoint)
    line = line.union(select(parent.id, parent.parent_id).join(line, parent.id == line.c.parent_id))
    found = {row.id: row for row in session.scalars(select(Checkpoint).join(line, line.c.id == Checkpoint.id))}
    ordered: list[Checkpoint] = []
    next_id: UUID | None = checkpoint_id
    while next_id is not None and (row := found.get(next_id)) is not None:
        ordered.append(row)
        next_id = row.parent_id
    return ordered


def descendants(session: Session, checkpoint_id: UUID, *, limit: int) -> Sequence[Checkpoint]:
    """Everything that was finetuned from the checkpoint, at any remove, oldest first."""
    tree = select(Checkpoint.id).where(Checkpoint.parent_id == checkpoint_id).cte(recursive=True)
    child = aliased(Checkpoint)
    tree = tree.union(select(child.id).join(tree, child.parent_id == tree.c.id))
    return session.scalars(
        select(Checkpoint)
        .join(tree, tree.c.id == Checkpoint.id)
        .where(Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.created_at, Checkpoint.epoch, Checkpoint.id)
        .limit(limit)
    ).all()


def epochs_of_jobs(session: Session, job_ids: Collection[UUID]) -> Sequence[Checkpoint]:
    """What these jobs saved, in order of epochs."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id.in_(job_ids), Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.epoch, Checkpoint.created_at)
    ).all()


def newest_job_from(session: Session, checkpoint_id: UUID) -> UUID | None:
    """The job that last saved a checkpoint finetuned from this one."""
    return session.scalar(
        select(Checkpoint.job_id)
        .where(Checkpoint.parent_id == checkpoint_id, Checkpoint.job_id.is_not(None), Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.created_at.desc(), Checkpoint.id)
        .limit(1)
    )


def jobs(session: Session, job_ids: Collection[UUID]) -> dict[UUID, Job]:
    return {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(job_ids)))}


def reward_models(
    session: Session, reward_model_ids: Collection[UUID]
) -> dict[UUID, tuple[RewardModel, LabelSnapshot, Campaign]]:
    """Learned rewards with the frozen votes and the campaign behind them."""
    rows = session.execute(
        select(RewardModel, LabelSnapshot, Campaign)
        .join(LabelSnapshot, LabelSnapshot.id == RewardModel.snapshot_id)
        .join(Campaign, Campaign.id == RewardModel.campaign_id)
        .where(RewardModel.id.in_(reward_model_ids))
    )
    return {model.id: (model, snapshot, campaign) for model, snapshot, campaign in rows}

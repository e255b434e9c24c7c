"""SQL of gold pairs, of raters whose votes were retracted, and of what was learned from those votes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import String, and_, case, cast, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.models import (
    Checkpoint,
    Comparison,
    GoldPair,
    Job,
    LabelSnapshot,
    Pair,
    Preference,
    Retraction,
    RewardModel,
    Sample,
    SnapshotRater,
)
from app.domain.enums import Choice, JobKind


class GoldRow(NamedTuple):
    """A gold pair with how it was answered, skips left out."""

    gold: GoldPair
    sample_a_id: UUID
    sample_b_id: UUID
    answers: int
    right: int


def gold_pairs(session: Session, campaign_id: UUID) -> list[GoldRow]:
    """A campaign's gold pairs, retired ones too, oldest first."""
    expected = case(
        (Comparison.left_sample_id == GoldPair.better_sample_id, Choice.LEFT.value), else_=Choice.RIGHT.value
    )
    is_right = case((cast(Preference.choice, String) == expected, 1), else_=0)
    rows = session.execute(
        select(
            GoldPair,
            Pair.sample_a_id,
            Pair.sample_b_id,
            func.count(Preference.comparison_id),
            func.coalesce(func.sum(case((Preference.comparison_id.is_(None), 0), else_=is_right)), 0),
        )
        .join(Pair, Pair.id == GoldPair.pair_id)
        .outerjoin(Comparison, and_(Comparison.pair_id == GoldPair.pair_id, Comparison.is_gold))
        .outerjoin(Preference, and_(Preference.comparison_id == Comparison.id, Preference.choice != Choice.SKIP))
        .where(GoldPair.campaign_id == campaign_id)
        .group_by(GoldPair.pair_id, Pair.id)
        .order_by(GoldPair.created_at, GoldPair.pair_id)
    )
    return [GoldRow(gold, a, b, answers, right) for gold, a, b, answers, right in rows]


def samples_with_checkpoints(session: Session, sample_ids: Collection[UUID]) -> dict[UUID, Sample]:
    return {row.id: row for row in session.scalars(select(Sample).where(Sample.id.in_(sample_ids)))}


def retractions(session: Session, campaign_id: UUID) -> dict[UUID, Retraction]:
    """The campaign's retractions by rater."""
    rows = session.scalars(select(Retraction).where(Retraction.campaign_id == campaign_id))
    return {row.rater_id: row for row in rows}


def retracted_votes(
    session: Session, *, campaign_id: UUID | None = None, rater_id: UUID | None = None
) -> dict[UUID, int]:
    """Reward models that were trained on votes retracted since, and on how many. One look-up where there are none."""
    statement = (
        select(RewardModel.id, func.sum(SnapshotRater.n_votes))
        .select_from(Retraction)
        .join(LabelSnapshot, LabelSnapshot.campaign_id == Retraction.campaign_id)
        .join(
            SnapshotRater,
            and_(SnapshotRater.snapshot_id == LabelSnapshot.id, SnapshotRater.rater_id == Retraction.rater_id),
        )
        .join(RewardModel, RewardModel.snapshot_id == LabelSnapshot.id)
        .group_by(RewardModel.id)
    )
    if campaign_id is not None:
        statement = statement.where(Retraction.campaign_id == campaign_id)
    if rater_id is not None:
        statement = statement.where(Retraction.rater_id == rater_id)
    return {id: int(n) for id, n in session.execute(statement)}


def trained_on(session: Session, campaign_id: UUID, rater_id: UUID) -> dict[UUID, int]:
    """Reward models that were trained on votes of this rater, retracted or not, and on how many."""
    rows = session.execute(
        select(RewardModel.id, SnapshotRater.n_votes)
        .join(LabelSnapshot, LabelSnapshot.id == RewardModel.snapshot_id)
        .join(SnapshotRater, SnapshotRater.snapshot_id == LabelSnapshot.id)
        .where(LabelSnapshot.campaign_id == campaign_id, SnapshotRater.rater_id == rater_id)
    )
    return {row[0]: row[1] for row in rows}


def checkpoints_taught_by(session: Session, reward_model_ids: Collection[UUID]) -> Sequence[Checkpoint]:
    """Checkpoints finetuned toward any of these reward models, and everything finetuned from them; oldest first."""
    if not reward_model_ids:
        return []
    spec = cast(Job.spec, String)
    jobs = select(Job.id).where(
        Job.kind == JobKind.FINETUNE, or_(*(spec.contains(str(id), autoescape=True) for id in reward_model_ids))
    )
    tree = select(Checkpoint.id).where(Checkpoint.job_id.in_(jobs)).cte(recursive=True)
    child = aliased(Checkpoint)
    tree = tree.union(select(child.id).join(tree, child.parent_id == tree.c.id))
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.id.in_(select(tree.c.id)))
        .order_by(Checkpoint.created_at, Checkpoint.epoch, Checkpoint.id)
    ).all()


def reward_models(session: Session, ids: Collection[UUID]) -> Sequence[RewardModel]:
    """Newest first."""
    return session.scalars(
        select(RewardModel).where(RewardModel.id.in_(ids)).order_by(RewardModel.created_at.desc(), RewardModel.id)
    ).all()


def newest_successor(session: Session, model: RewardModel, *, but: Collection[UUID]) -> RewardModel | None:
    """The newest reward model of the same campaign and encoder that was made after this one and is none of `but`."""
    return session.scalar(
        select(RewardModel)
        .where(
            RewardModel.campaign_id == model.campaign_id,
            RewardModel.encoder == model.encoder,
            RewardModel.created_at > model.created_at,
            RewardModel.id.not_in(but),
        )
        .order_by(RewardModel.created_at.desc(), RewardModel.id)
        .limit(1)
    )


def add_snapshot_raters(
    session: Session, snapshot_id: UUID, votes_by_rater: Mapping[UUID, int], weights: Mapping[UUID, float]
) -> None:
    session.add_all(
        SnapshotRater(snapshot_id=snapshot_id, rater_id=rater, n_votes=n, weight=weights.get(rater, 1.0))
        for rater, n in votes_by_rater.items()
    )


def retract(session: Session, campaign_id: UUID, rater_id: UUID, *, reason: str, by: UUID, now: datetime) -> Retraction:
    row = session.get(Retraction, (campaign_id, rater_id))
    if row is None:
        row = Retraction(campaign_id=campaign_id, rater_id=rater_id, reason=reason, retracted_by=by, retracted_at=now)
        session.add(row)
        session.flush()
    return row

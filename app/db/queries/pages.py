"""SQL that only the HTML pages need: where the loop stands, and short lists for overviews and selects."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.db.models import (
    Campaign,
    CampaignCheckpoint,
    CampaignRater,
    Checkpoint,
    Comparison,
    Job,
    JobEvent,
    Preference,
    RewardModel,
    Sample,
    SampleReward,
)
from app.domain.enums import CampaignStatus, CheckpointKind, EventKind, JobKind, JobStatus, Strategy


@dataclass(frozen=True)
class LoopState:
    """How far this installation has come around the loop; the newest of each thing, None where there is none."""

    n_samples: int
    n_votes: int
    n_blind_votes: int
    base: Checkpoint | None
    campaign: Campaign | None
    reward_model: RewardModel | None
    finetuned: Checkpoint | None
    tournament: Campaign | None


def loop_state(session: Session) -> LoopState:
    def newest_campaign(*strategies: Strategy) -> Campaign | None:
        return session.scalar(
            select(Campaign)
            .where(Campaign.status == CampaignStatus.ACTIVE, Campaign.strategy.in_(strategies))
            .order_by(Campaign.created_at.desc())
            .limit(1)
        )

    def newest_checkpoint(kind: CheckpointKind) -> Checkpoint | None:
        order = (Checkpoint.created_at.desc(), Checkpoint.epoch.desc())
        return session.scalar(
            select(Checkpoint).where(Checkpoint.kind == kind, Checkpoint.deleted_at.is_(None)).order_by(*order).limit(1)
        )

    votes = select(func.count()).select_from(Preference).join(Campaign, Campaign.id == Preference.campaign_id)
    return LoopState(
        n_samples=session.scalar(select(func.coalesce(func.sum(Checkpoint.n_samples), 0))) or 0,
        n_votes=session.scalar(votes.where(Campaign.strategy != Strategy.TOURNAMENT)) or 0,
        n_blind_votes=session.scalar(votes.where(Campaign.strategy == Strategy.TOURNAMENT)) or 0,
        base=newest_checkpoint(CheckpointKind.BASE),
        campaign=newest_campaign(Strategy.UNIFORM, Strategy.UNCERTAINTY),
        reward_model=session.scalar(select(RewardModel).order_by(RewardModel.created_at.desc()).limit(1)),
        finetuned=newest_checkpoint(CheckpointKind.FINETUNED),
        tournament=newest_campaign(Strategy.TOURNAMENT),
    )


def jobs_by_status(session: Session, statuses: Collection[JobStatus], *, limit: int) -> Sequence[Job]:
    return session.scalars(
        select(Job)
        .where(Job.status.in_(statuses), Job.parent_id.is_(None))
        .order_by(Job.created_at.desc(), Job.id)
        .limit(limit)
    ).all()


def newest_jobs(session: Session, kind: JobKind, *, limit: int) -> Sequence[Job]:
    return session.scalars(
        select(Job)
        .where(Job.kind == kind, Job.parent_id.is_(None))
        .order_by(Job.created_at.desc(), Job.id)
        .limit(limit)
    ).all()


def full_campaigns(session: Session, *, limit: int) -> list[tuple[Campaign, int]]:
    """Open campaigns that have the votes they asked for, with their number, newest first."""
    n = func.count(Preference.comparison_id)
    rows = session.execute(
        select(Campaign, n)
        .join(Preference, Preference.campaign_id == Campaign.id)
        .where(Campaign.status == CampaignStatus.ACTIVE, Campaign.budget.is_not(None))
        .group_by(Campaign.id)
        .having(n >= Campaign.budget)
        .order_by(Campaign.created_at.desc())
        .limit(limit)
    )
    return [(campaign, votes) for campaign, votes in rows]


def campaigns_to_rate(session: Session, rater_id: UUID, *, all_of_them: bool, limit: int) -> Sequence[Campaign]:
    """Active campaigns that this person may vote in, newest first."""
    statement = select(Campaign).where(Campaign.status == CampaignStatus.ACTIVE)
    if not all_of_them:
        member = select(CampaignRater.campaign_id).where(CampaignRater.user_id == rater_id)
        statement = statement.where(or_(Campaign.open, Campaign.id.in_(member)))
    return session.scalars(statement.order_by(Campaign.created_at.desc(), Campaign.id).limit(limit)).all()


def votes_in(session: Session, campaign_ids: Collection[UUID], *, rater_id: UUID | None = None) -> dict[UUID, int]:
    """How many votes each campaign has, or those of one rater."""
    statement = (
        select(Preference.campaign_id, func.count().label("n"))
        .where(Preference.campaign_id.in_(campaign_ids))
        .group_by(Preference.campaign_id)
    )
    if rater_id is not None:
        statement = statement.where(Preference.rater_id == rater_id)
    return {row.campaign_id: row.n for row in session.execute(statement)}


def last_votes(session: Session, campaign_id: UUID, rater_id: UUID, *, limit: int) -> Sequence[UUID]:
    """The comparisons that this rater voted on last, newest first."""
    return session.scalars(
        select(Comparison.id)
        .join(Preference, Preference.comparison_id == Comparison.id)
        .where(Comparison.campaign_id == campaign_id, Comparison.rater_id == rater_id)
        .order_by(Preference.created_at.desc(), Comparison.leased_at.desc())
        .limit(limit)
    ).all()


def reward_models(session: Session, *, campaign_id: UUID | None = None, limit: int = 200) -> Sequence[RewardModel]:
    statement = select(RewardModel)
    if campaign_id is not None:
        statement = statement.where(RewardModel.campaign_id == campaign_id)
    return session.scalars(statement.order_by(RewardModel.created_at.desc()).limit(limit)).all()


def all_campaigns(session: Session, *, limit: int = 200) -> Sequence[Campaign]:
    return session.scalars(select(Campaign).order_by(Campaign.created_at.desc(), Campaign.id).limit(limit)).all()


def campaigns_of_checkpoint(session: Session, checkpoint_id: UUID) -> Sequence[Campaign]:
    """Campaigns that show samples of this checkpoint, newest first."""
    return session.scalars(
        select(Campaign)
        .join(CampaignCheckpoint, CampaignCheckpoint.campaign_id == Campaign.id)
        .where(CampaignCheckpoint.checkpoint_id == checkpoint_id)
        .order_by(Campaign.created_at.desc())
    ).all()


def samples_on_seeds(session: Session, checkpoint_ids: Collection[UUID], *, seeds: Collection[int]) -> Sequence[Sample]:
    """Every unguided sample of these checkpoints with one of these seeds."""
    return session.scalars(
        select(Sample)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.seed.in_(seeds), Sample.guidance_key == "")
        .order_by(Sample.seed)
    ).all()


def epochs_of_job(session: Session, job_id: UUID, *, most: int | None = None) -> Sequence[Checkpoint]:
    """The saved epochs of a job in order; of more than `most` so many, evenly spread, the last among them."""
    saved = session.scalars(
        select(Checkpoint.id)
        .where(Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.epoch)
    ).all()
    if most is not None and len(saved) > most:
        saved = [saved[(index + 1) * len(saved) // most - 1] for index in range(most)]
        return session.scalars(select(Checkpoint).where(Checkpoint.id.in_(saved)).order_by(Checkpoint.epoch)).all()
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.epoch)
    ).all()


def samples_by_reward(session: Session, reward: str, *, best: bool, limit: int) -> list[tuple[Sample, float]]:
    """The samples with the highest or lowest values of a reward."""
    order = SampleReward.value.desc() if best else SampleReward.value.asc()
    rows = session.execute(
        select(Sample, SampleReward.value)
        .join(SampleReward, SampleReward.sample_id == Sample.id)
        .where(SampleReward.name == reward, Sample.guidance_key == "")
        .order_by(order, Sample.id)
        .limit(limit)
    )
    return [(sample, value) for sample, value in rows]


def events_of_kind(session: Session, job_id: UUID, kind: EventKind, *, last: int) -> Sequence[JobEvent]:
    """The newest events of one kind, in order."""
    rows = session.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.kind == kind)
        .order_by(JobEvent.seq.desc())
        .limit(last)
    ).all()
    return rows[::-1]


def last_event_seq(session: Session, job_id: UUID) -> int:
    return session.scalar(select(Job.last_event_seq).where(Job.id == job_id)) or 0

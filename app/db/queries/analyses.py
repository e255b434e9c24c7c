"""SQL of analyses and of what an over-optimisation report rests on."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import String, cast, func, select
from sqlalchemy.orm import Session

from app.db.models import Campaign, CampaignCheckpoint, Checkpoint, Job, JobEvent, Sample, SampleReward
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import AnalysisKind, EventKind, JobKind, JobStatus


def analyses(
    session: Session,
    *,
    kind: AnalysisKind | None,
    checkpoint_id: UUID | None,
    status: JobStatus | None,
    after: Position | None,
    limit: int,
) -> Slice[Job]:
    """Analysis jobs, newest first; with `checkpoint_id` only those that look into it."""
    statement = select(Job).where(Job.kind == JobKind.ANALYZE)
    if kind is not None:
        statement = statement.where(Job.spec["kind"].as_string() == kind.value)
    if checkpoint_id is not None:
        statement = statement.where(cast(Job.spec["checkpoint_ids"], String).contains(str(checkpoint_id)))
    if status is not None:
        statement = statement.where(Job.status == status)
    return newest_first(session, statement, (Job.created_at, Job.id), after=after, limit=limit)


def newest_diversity(session: Session, base_id: UUID, checkpoint_id: UUID) -> Job | None:
    """The newest finished diversity analysis of a checkpoint against this base."""
    return session.scalar(
        select(Job)
        .where(
            Job.kind == JobKind.ANALYZE,
            Job.status == JobStatus.SUCCEEDED,
            Job.spec["kind"].as_string() == AnalysisKind.DIVERSITY.value,
            Job.spec[("checkpoint_ids", 0)].as_string() == str(base_id),
            cast(Job.spec["checkpoint_ids"], String).contains(str(checkpoint_id)),
        )
        .order_by(Job.created_at.desc())
        .limit(1)
    )


def guided_jobs(session: Session, *, limit: int) -> Sequence[Job]:
    """Sampling jobs with guidance, newest first."""
    return session.scalars(
        select(Job)
        .where(
            Job.kind == JobKind.SAMPLE,
            Job.parent_id.is_(None),
            Job.spec[("guidance", "scale")].as_float().is_not(None),
        )
        .order_by(Job.created_at.desc(), Job.id)
        .limit(limit)
    ).all()


def samples_of_recipe(
    session: Session, checkpoint_id: UUID, *, steps: int, eta: float, guidance_key: str, seeds: range
) -> dict[int, Sample]:
    """A checkpoint's samples of one recipe, by seed."""
    rows = session.scalars(
        select(Sample).where(
            Sample.checkpoint_id == checkpoint_id,
            Sample.steps == steps,
            Sample.eta == eta,
            Sample.guidance_key == guidance_key,
            Sample.seed.between(seeds.start, seeds.stop - 1),
        )
    )
    return {row.seed: row for row in rows}


def measured_recipes(session: Session, checkpoint_ids: Collection[UUID]) -> list[tuple[str, UUID, int, float, int]]:
    """(reward, checkpoint, steps, eta, n) of the unguided samples that each reward is known of."""
    rows = session.execute(
        select(SampleReward.name, Sample.checkpoint_id, Sample.steps, Sample.eta, func.count())
        .join(Sample, Sample.id == SampleReward.sample_id)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.guidance_key == "")
        .group_by(SampleReward.name, Sample.checkpoint_id, Sample.steps, Sample.eta)
    )
    return [(name, id, steps, eta, n) for name, id, steps, eta, n in rows]


def rewards_by_seed(
    session: Session, checkpoint_ids: Collection[UUID], *, name: str, steps: int, eta: float
) -> dict[UUID, dict[int, float]]:
    """One reward of every checkpoint's unguided samples of one recipe, by seed."""
    rows = session.execute(
        select(Sample.checkpoint_id, Sample.seed, SampleReward.value)
        .join(SampleReward, SampleReward.sample_id == Sample.id)
        .where(
            Sample.checkpoint_id.in_(checkpoint_ids),
            Sample.guidance_key == "",
            Sample.steps == steps,
            Sample.eta == eta,
            SampleReward.name == name,
        )
    )
    found: dict[UUID, dict[int, float]] = {id: {} for id in checkpoint_ids}
    for id, seed, value in rows:
        found[id][seed] = value
    return found


def campaigns_between(session: Session, first: UUID, second: UUID) -> Sequence[UUID]:
    """Campaigns that show both checkpoints."""
    shows = [
        select(CampaignCheckpoint.campaign_id).where(CampaignCheckpoint.checkpoint_id == id) for id in (first, second)
    ]
    return session.scalars(
        select(Campaign.id).where(Campaign.id.in_(shows[0]), Campaign.id.in_(shows[1])).order_by(Campaign.created_at)
    ).all()


def epochs_beside(session: Session, checkpoint: Checkpoint) -> Sequence[Checkpoint]:
    """The saved epochs of a checkpoint's run, in order."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == checkpoint.job_id, Checkpoint.epoch.is_not(None), Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.epoch)
    ).all()


def base_metrics(session: Session, job_id: UUID) -> dict[str, Any] | None:
    """What a finetune reported of its base, epoch 0; the first thing that it reports."""
    rows = session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.METRICS)
        .order_by(JobEvent.seq)
        .limit(1)
    )
    return next((row for row in rows if row.get("epoch") == 0), None)

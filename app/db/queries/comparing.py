"""SQL of comparing checkpoints: the seeds they share, and how raters voted between them."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Comparison, Pair, Preference, Sample
from app.domain.enums import Choice


def shared_seeds(
    session: Session, checkpoint_ids: Collection[UUID], *, limit: int
) -> tuple[int, float, list[int]] | None:
    """(steps, eta, seeds) that the most of these checkpoints have drawn, two at least, without guidance."""
    n = func.count(func.distinct(Sample.checkpoint_id))
    rows = session.execute(
        select(Sample.seed, Sample.steps, Sample.eta)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.guidance_key == "")
        .group_by(Sample.seed, Sample.steps, Sample.eta)
        .having(n >= min(2, len(checkpoint_ids)))
        .order_by(n.desc(), Sample.seed)
        .limit(4 * limit)
    ).all()
    if not rows:
        return None
    steps, eta = rows[0].steps, rows[0].eta
    return steps, eta, sorted([row.seed for row in rows if (row.steps, row.eta) == (steps, eta)][:limit])


def samples_of(
    session: Session, checkpoint_ids: Collection[UUID], seeds: Collection[int], *, steps: int, eta: float
) -> Sequence[Sample]:
    """What these checkpoints drew from these seeds with this recipe."""
    return session.scalars(
        select(Sample).where(
            Sample.checkpoint_id.in_(checkpoint_ids),
            Sample.seed.in_(seeds),
            Sample.steps == steps,
            Sample.eta == eta,
            Sample.guidance_key == "",
        )
    ).all()


def votes_between(session: Session, sample_ids: Collection[UUID]) -> list[tuple[UUID, UUID, UUID, Choice]]:
    """(sample a, sample b, the one shown left, choice) of every vote on a pair of these samples."""
    rows = session.execute(
        select(Pair.sample_a_id, Pair.sample_b_id, Comparison.left_sample_id, Preference.choice)
        .join(Comparison, Comparison.pair_id == Pair.id)
        .join(Preference, Preference.comparison_id == Comparison.id)
        .where(Pair.sample_a_id.in_(sample_ids), Pair.sample_b_id.in_(sample_ids))
    )
    return [(a, b, left, choice) for a, b, left, choice in rows]


def saved_epochs(session: Session, job_ids: Collection[UUID]) -> Sequence[Checkpoint]:
    """What these jobs saved and was not deleted, in order of epochs."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id.in_(job_ids), Checkpoint.deleted_at.is_(None), Checkpoint.epoch.is_not(None))
        .order_by(Checkpoint.epoch)
    ).all()

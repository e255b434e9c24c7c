"""SQL of comparing checkpoints: the seeds they share, and how raters voted between them."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Comparison, Pair, Preference, Retraction, Sample
from app.domain.enums import Choice

_EXACT = 4_000
"""So many samples can be counted by seed in a page's time."""


def shared_recipes(session: Session, checkpoint_ids: Collection[UUID], *, limit: int) -> list[tuple[int, int, float]]:
    """(seed, steps, eta) drawn at the most of these checkpoints, at two at least, without guidance; the best shared
    first, then the lowest seeds.

    Where they have drawn very many, only the lowest seeds of the one that has drawn the fewest are looked at.
    """
    n = func.count(func.distinct(Sample.checkpoint_id))
    statement = (
        select(Sample.seed, Sample.steps, Sample.eta)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.guidance_key == "")
        .group_by(Sample.seed, Sample.steps, Sample.eta)
        .having(n >= min(2, len(checkpoint_ids)))
        .order_by(n.desc(), Sample.seed)
        .limit(limit)
    )
    counts = session.execute(
        select(Checkpoint.n_samples, Checkpoint.id)
        .where(Checkpoint.id.in_(checkpoint_ids), Checkpoint.n_samples > 0)
        .order_by(Checkpoint.n_samples, Checkpoint.id)
    ).all()
    if sum(row.n_samples for row in counts) > _EXACT:
        lowest = (
            select(Sample.seed)
            .where(Sample.checkpoint_id == counts[0].id, Sample.guidance_key == "")
            .order_by(Sample.seed)
            .limit(limit)
        )
        seeds = session.scalars(lowest).all()
        statement = statement.where(Sample.seed.in_(seeds))
        if (
            seeds
        ):  # says nothing new, but lets PostgreSQL read a range of the index, not all of each checkpoint's entries
            statement = statement.where(Sample.seed.between(seeds[0], seeds[-1]))
    return [(seed, steps, eta) for seed, steps, eta in session.execute(statement)]


def shared_seeds(
    session: Session, checkpoint_ids: Collection[UUID], *, limit: int
) -> tuple[int, float, list[int]] | None:
    """(steps, eta, seeds) of the best shared recipe; None where no two checkpoints share any."""
    rows = shared_recipes(session, checkpoint_ids, limit=2 * limit)
    if not rows:
        return None
    _, steps, eta = rows[0]
    return steps, eta, sorted([seed for seed, *recipe in rows if recipe == [steps, eta]][:limit])


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
    """(sample a, sample b, the one shown left, choice) of every vote on a pair of these samples, without gold pairs and
    retracted raters."""
    rows = session.execute(
        select(Pair.sample_a_id, Pair.sample_b_id, Comparison.left_sample_id, Preference.choice)
        .join(Comparison, Comparison.pair_id == Pair.id)
        .join(Preference, Preference.comparison_id == Comparison.id)
        .outerjoin(
            Retraction,
            and_(Retraction.campaign_id == Preference.campaign_id, Retraction.rater_id == Preference.rater_id),
        )
        .where(
            Pair.sample_a_id.in_(sample_ids),
            Pair.sample_b_id.in_(sample_ids),
            ~Comparison.is_gold,
            Retraction.rater_id.is_(None),
        )
    )
    return [(a, b, left, choice) for a, b, left, choice in rows]


def saved_epochs(session: Session, job_ids: Collection[UUID]) -> Sequence[Checkpoint]:
    """What these jobs saved and was not deleted, in order of epochs."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id.in_(job_ids), Checkpoint.deleted_at.is_(None), Checkpoint.epoch.is_not(None))
        .order_by(Checkpoint.epoch)
    ).all()

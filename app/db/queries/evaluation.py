"""SQL of evaluation tables: rewards by seed, for checkpoints beside the base that they come from."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Sample, SampleReward
from app.domain.enums import CheckpointKind


class Recipe(NamedTuple):
    """How an evaluation set was drawn: the same for a base and for everything that came of it."""

    steps: int
    eta: float


Values = dict[UUID, dict[str, dict[Recipe, dict[int, float]]]]
"""By checkpoint, reward's name and recipe: the value of every seed."""


def rewards_by_seed(session: Session, checkpoint_ids: Collection[UUID], names: Collection[str]) -> Values:
    """Every value of these rewards on unguided samples of these checkpoints."""
    found: Values = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    rows = session.execute(
        select(Sample.checkpoint_id, SampleReward.name, Sample.steps, Sample.eta, Sample.seed, SampleReward.value)
        .join(SampleReward, SampleReward.sample_id == Sample.id)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.guidance_key == "", SampleReward.name.in_(names))
    )
    for checkpoint_id, name, steps, eta, seed, value in rows:
        found[checkpoint_id][name][Recipe(steps, eta)][seed] = value
    return found


def results_of_runs(session: Session, *, limit: int) -> Sequence[Checkpoint]:
    """The last saved epoch of each run, newest first."""
    last = (
        select(Checkpoint.job_id, func.max(Checkpoint.epoch).label("epoch"))
        .where(Checkpoint.kind == CheckpointKind.FINETUNED, Checkpoint.deleted_at.is_(None))
        .group_by(Checkpoint.job_id)
        .subquery()
    )
    return session.scalars(
        select(Checkpoint)
        .join(last, (Checkpoint.job_id == last.c.job_id) & (Checkpoint.epoch == last.c.epoch))
        .where(Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.created_at.desc(), Checkpoint.id)
        .limit(limit)
    ).all()


def samples_with_seeds(
    session: Session, checkpoint_ids: Collection[UUID], recipe: Recipe, seeds: Collection[int]
) -> dict[UUID, dict[int, Sample]]:
    """What these checkpoints drew from these seeds, by checkpoint and seed."""
    found: dict[UUID, dict[int, Sample]] = defaultdict(dict)
    rows = session.scalars(
        select(Sample).where(
            Sample.checkpoint_id.in_(checkpoint_ids),
            Sample.guidance_key == "",
            Sample.steps == recipe.steps,
            Sample.eta == recipe.eta,
            Sample.seed.in_(seeds),
        )
    )
    for row in rows:
        found[row.checkpoint_id][row.seed] = row
    return found


def samples_from_seed(session: Session, checkpoint_id: UUID, *, seed: int, limit: int) -> Sequence[Sample]:
    """Unguided samples with seeds from `seed` on, in order, of the recipe that has the most of them."""
    wanted = (Sample.checkpoint_id == checkpoint_id, Sample.guidance_key == "", Sample.seed >= seed)
    n = func.count()
    most = session.execute(
        select(Sample.steps, Sample.eta).where(*wanted).group_by(Sample.steps, Sample.eta).order_by(n.desc()).limit(1)
    ).first()
    if most is None:
        return []
    return session.scalars(
        select(Sample)
        .where(*wanted, Sample.steps == most.steps, Sample.eta == most.eta)
        .order_by(Sample.seed)
        .limit(limit)
    ).all()

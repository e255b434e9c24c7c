"""SQL of samples: which exist, adding new ones, their rewards."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Sample, SampleReward
from app.db.queries.bulk import in_chunks, insert_or_update


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides what a checkpoint draws."""

    checkpoint_id: UUID
    steps: int
    eta: float
    guidance: Mapping[str, Any] | None = None

    @property
    def guidance_key(self) -> str:
        """SHA-256 of the guidance in canonical JSON; empty without guidance."""
        if self.guidance is None:
            return ""
        return hashlib.sha256(json.dumps(dict(self.guidance), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DrawnImage:
    """An image that is in the blob store and not yet in the database."""

    seed: int
    sha256: str
    width: int
    height: int


def samples_by_seed(session: Session, recipe: Recipe, seeds: Sequence[int]) -> dict[int, Sample]:
    """The samples that were drawn already, by seed."""
    found: dict[int, Sample] = {}
    for chunk in in_chunks(seeds):
        rows = session.scalars(
            select(Sample).where(
                Sample.checkpoint_id == recipe.checkpoint_id,
                Sample.steps == recipe.steps,
                Sample.eta == recipe.eta,
                Sample.guidance_key == recipe.guidance_key,
                Sample.seed.in_(chunk),
            )
        )
        found |= {sample.seed: sample for sample in rows}
    return found


def add_samples(
    session: Session, recipe: Recipe, images: Sequence[DrawnImage], *, job_id: UUID | None, now: datetime
) -> list[Sample]:
    """Store the images that are new and return all of them as rows, in the order of `images`.

    The checkpoint's row is locked first: two jobs that draw the same seeds at once store each sample once, and ordinals
    have no gaps. Guided samples are numbered downward from -1: they are not what the checkpoint draws by itself, so no
    random draw (of pairs, of a reference set) may find them.
    """
    first = session.scalar(
        update(Checkpoint)
        .where(Checkpoint.id == recipe.checkpoint_id)
        .values(n_samples=Checkpoint.n_samples)
        .returning(Checkpoint.n_samples)
        .execution_options(synchronize_session=False)
    )
    if first is None:
        raise LookupError(f"there is no checkpoint {recipe.checkpoint_id}")
    known = samples_by_seed(session, recipe, [image.seed for image in images])
    new = [image for image in images if image.seed not in known]
    guided = recipe.guidance is not None
    ordinals = count(_lowest_ordinal(session, recipe.checkpoint_id) - 1, -1) if guided else count(first)
    for ordinal, image in zip(ordinals, new):  # noqa: B905  (the ordinals go on for ever)
        known[image.seed] = Sample(
            checkpoint_id=recipe.checkpoint_id,
            job_id=job_id,
            ordinal=ordinal,
            seed=image.seed,
            steps=recipe.steps,
            eta=recipe.eta,
            guidance=dict(recipe.guidance) if recipe.guidance is not None else None,
            guidance_key=recipe.guidance_key,
            width=image.width,
            height=image.height,
            sha256=image.sha256,
            created_at=now,
        )
        session.add(known[image.seed])
    session.execute(
        update(Checkpoint)
        .where(Checkpoint.id == recipe.checkpoint_id)
        .values(n_samples=first if guided else first + len(new))
        .execution_options(synchronize_session=False)
    )
    session.flush()
    return [known[image.seed] for image in images]


def _lowest_ordinal(session: Session, checkpoint_id: UUID) -> int:
    lowest = session.scalar(select(func.min(Sample.ordinal)).where(Sample.checkpoint_id == checkpoint_id))
    return min(0, lowest or 0)


def rewards_of(session: Session, sample_ids: Iterable[UUID], name: str) -> dict[UUID, float]:
    """One reward's values by sample id, where they are known."""
    values: dict[UUID, float] = {}
    for chunk in in_chunks(sample_ids):
        rows = session.execute(
            select(SampleReward.sample_id, SampleReward.value).where(
                SampleReward.name == name, SampleReward.sample_id.in_(chunk)
            )
        )
        values.update((sample_id, value) for sample_id, value in rows)
    return values


def record_rewards(session: Session, name: str, values: Mapping[UUID, float]) -> None:
    """Store one reward's values by sample id; a newer value replaces an older one."""
    rows = [{"sample_id": sample_id, "name": name, "value": value} for sample_id, value in values.items()]
    insert_or_update(session, SampleReward, rows)


def samples_of_checkpoints(session: Session, checkpoint_ids: Sequence[UUID], *, limit: int) -> Sequence[Sample]:
    """The first samples of each checkpoint, `limit` in all, spread evenly by ordinal."""
    return session.scalars(
        select(Sample)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.ordinal >= 0)
        .order_by(Sample.ordinal, Sample.id)
        .limit(limit)
    ).all()

"""SQL of the pages of checkpoints and samples that people and programs browse."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Measurement, Sample, SampleReward, Upload
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import CheckpointKind


def checkpoints(session: Session, *, parent_id: UUID | None, after: Position | None, limit: int) -> Slice[Checkpoint]:
    statement = select(Checkpoint)
    if parent_id is not None:
        statement = statement.where(Checkpoint.parent_id == parent_id)
    return newest_first(session, statement, (Checkpoint.created_at, Checkpoint.id), after=after, limit=limit)


def base_is_named(session: Session, name: str) -> bool:
    statement = select(Checkpoint.id).where(Checkpoint.kind == CheckpointKind.BASE, Checkpoint.name == name).limit(1)
    return session.scalar(statement) is not None


def existing_checkpoints(session: Session, ids: Collection[UUID]) -> dict[UUID, Checkpoint]:
    return {row.id: row for row in session.scalars(select(Checkpoint).where(Checkpoint.id.in_(ids)))}


def measurements(session: Session, checkpoint_ids: Collection[UUID]) -> Mapping[UUID, list[Measurement]]:
    """What was measured on each checkpoint, by reward name."""
    found: dict[UUID, list[Measurement]] = defaultdict(list)
    rows = session.scalars(
        select(Measurement).where(Measurement.checkpoint_id.in_(checkpoint_ids)).order_by(Measurement.name)
    )
    for row in rows:
        found[row.checkpoint_id].append(row)
    return found


def samples(
    session: Session, *, checkpoint_id: UUID | None, seed: int | None, after: Position | None, limit: int
) -> Slice[Sample]:
    statement = select(Sample)
    if checkpoint_id is not None:
        statement = statement.where(Sample.checkpoint_id == checkpoint_id)
    if seed is not None:
        statement = statement.where(Sample.seed == seed)
    return newest_first(session, statement, (Sample.created_at, Sample.id), after=after, limit=limit)


def samples_drawn_alike(session: Session, sample: Sample, checkpoint_ids: Collection[UUID]) -> dict[UUID, Sample]:
    """The samples with the noise of `sample` (seed, steps, eta, guidance), by checkpoint."""
    rows = session.scalars(
        select(Sample).where(
            Sample.checkpoint_id.in_(checkpoint_ids),
            Sample.seed == sample.seed,
            Sample.steps == sample.steps,
            Sample.eta == sample.eta,
            Sample.guidance_key == sample.guidance_key,
        )
    )
    return {row.checkpoint_id: row for row in rows}


def sample_rewards(session: Session, sample_ids: Collection[UUID]) -> Mapping[UUID, dict[str, float]]:
    """Every reward of each sample, by name."""
    found: dict[UUID, dict[str, float]] = defaultdict(dict)
    rows = session.scalars(
        select(SampleReward).where(SampleReward.sample_id.in_(sample_ids)).order_by(SampleReward.name)
    )
    for row in rows:
        found[row.sample_id][row.name] = row.value
    return found


def first_samples(session: Session, checkpoint_ids: Collection[UUID], *, per_checkpoint: int) -> Sequence[Sample]:
    """The first few samples of each checkpoint, as they were drawn."""
    return session.scalars(
        select(Sample)
        .where(Sample.checkpoint_id.in_(checkpoint_ids), Sample.ordinal.between(0, per_checkpoint - 1))
        .order_by(Sample.checkpoint_id, Sample.ordinal)
    ).all()


def is_image(session: Session, sha256: str) -> bool:
    """Whether a blob is the image of a sample, or one that was uploaded."""
    return any(
        session.scalar(select(table.id).where(table.sha256 == sha256).limit(1)) is not None
        for table in (Sample, Upload)
    )

"""SQL of the pages of checkpoints and samples that people and programs browse."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Measurement, Sample, SampleMark, SampleReward, Upload
from app.db.queries.keyset import Position, Slice, ValuePosition, by_value, newest_first
from app.db.queries.tags import has_tag
from app.domain.enums import CheckpointKind


@dataclass(frozen=True)
class CheckpointFilter:
    """Which checkpoints a list shows; what is left out does not matter."""

    parent_id: UUID | None = None
    kind: CheckpointKind | None = None
    name: str | None = None
    """A part of the name, upper or lower case."""
    tag: str | None = None
    starred: bool = False
    deleted: bool = False
    """The bin instead of the library."""


@dataclass(frozen=True)
class SampleFilter:
    """Which samples a list shows; what is left out does not matter."""

    checkpoint_id: UUID | None = None
    seed: int | None = None
    tag: str | None = None
    starred: bool = False


def checkpoints(session: Session, wanted: CheckpointFilter, *, after: Position | None, limit: int) -> Slice[Checkpoint]:
    statement = select(Checkpoint).where(
        Checkpoint.deleted_at.is_not(None) if wanted.deleted else Checkpoint.deleted_at.is_(None)
    )
    if wanted.parent_id is not None:
        statement = statement.where(Checkpoint.parent_id == wanted.parent_id)
    if wanted.kind is not None:
        statement = statement.where(Checkpoint.kind == wanted.kind)
    if wanted.name:
        statement = statement.where(Checkpoint.name.icontains(wanted.name, autoescape=True))
    if wanted.tag:
        statement = statement.where(has_tag(session, Checkpoint.tags, wanted.tag))
    if wanted.starred:
        statement = statement.where(Checkpoint.starred)
    return newest_first(session, statement, (Checkpoint.created_at, Checkpoint.id), after=after, limit=limit)


def base_is_named(session: Session, name: str) -> bool:
    statement = select(Checkpoint.id).where(Checkpoint.kind == CheckpointKind.BASE, Checkpoint.name == name).limit(1)
    return session.scalar(statement) is not None


def existing_checkpoints(session: Session, ids: Collection[UUID], *, keep: bool = False) -> dict[UUID, Checkpoint]:
    """Those that are there and not in the bin, by id; with `keep`, none can be deleted until this transaction ends."""
    statement = select(Checkpoint).where(Checkpoint.id.in_(ids), Checkpoint.deleted_at.is_(None))
    if keep:
        statement = statement.order_by(Checkpoint.id).with_for_update(read=True, key_share=True)
    return {row.id: row for row in session.scalars(statement)}


def measurements(session: Session, checkpoint_ids: Collection[UUID]) -> Mapping[UUID, list[Measurement]]:
    """What was measured on each checkpoint, by reward name."""
    found: dict[UUID, list[Measurement]] = defaultdict(list)
    rows = session.scalars(
        select(Measurement).where(Measurement.checkpoint_id.in_(checkpoint_ids)).order_by(Measurement.name)
    )
    for row in rows:
        found[row.checkpoint_id].append(row)
    return found


def samples(session: Session, wanted: SampleFilter, *, after: Position | None, limit: int) -> Slice[Sample]:
    """Newest first."""
    if not (wanted.starred or wanted.tag):
        statement = select(Sample).where(*_conditions(wanted))
        return newest_first(session, statement, (Sample.created_at, Sample.id), after=after, limit=limit)
    found = _marked(session, select(Sample.id, Sample.created_at).where(*_conditions(wanted)), wanted)
    statement = select(Sample).join(found, found.c.id == Sample.id)
    return newest_first(session, statement, (found.c.created_at, found.c.id), after=after, limit=limit)


def samples_by_reward(
    session: Session,
    wanted: SampleFilter,
    reward: str,
    *,
    highest: bool,
    after: ValuePosition | None,
    limit: int,
) -> Slice[Sample, ValuePosition]:
    """Those that have this reward, by its value."""
    conditions = (*_conditions(wanted), SampleReward.name == reward)
    with_reward = SampleReward.sample_id == Sample.id
    if not (wanted.starred or wanted.tag):
        statement = select(Sample, SampleReward.value).join(SampleReward, with_reward).where(*conditions)
        key = (SampleReward.value, SampleReward.sample_id)
        return by_value(session, statement, key, highest=highest, after=after, limit=limit)
    values = select(Sample.id, SampleReward.value).join(SampleReward, with_reward).where(*conditions)
    found = _marked(session, values, wanted)
    of_marked = select(Sample, found.c.value).join(found, found.c.id == Sample.id)
    return by_value(session, of_marked, (found.c.value, found.c.id), highest=highest, after=after, limit=limit)


def _conditions(wanted: SampleFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.checkpoint_id is not None:
        conditions.append(Sample.checkpoint_id == wanted.checkpoint_id)
    else:
        in_the_bin = select(Checkpoint.id).where(Checkpoint.deleted_at.is_not(None))
        conditions.append(Sample.checkpoint_id.not_in(in_the_bin))
    if wanted.seed is not None:
        conditions.append(Sample.seed == wanted.seed)
    return conditions


def _marked(session: Session, statement: Select[UUID, Any], wanted: SampleFilter) -> CTE:
    """Those with the star or tag that is wanted, found from the marks.

    There are few marks; a database that is free to choose walks the whole gallery in the order of the page instead.
    """
    statement = statement.join(SampleMark, SampleMark.sample_id == Sample.id)
    if wanted.starred:
        statement = statement.where(SampleMark.starred)
    if wanted.tag:
        statement = statement.where(has_tag(session, SampleMark.tags, wanted.tag))
    return statement.cte("marked").prefix_with("MATERIALIZED")


def sample_marks(session: Session, sample_ids: Collection[UUID]) -> dict[UUID, SampleMark]:
    """Stars, notes and tags of those samples that have any."""
    rows = session.scalars(select(SampleMark).where(SampleMark.sample_id.in_(sample_ids)))
    return {row.sample_id: row for row in rows}


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

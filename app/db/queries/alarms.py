"""SQL of alarms: what a run has reported of itself, and how people voted between its checkpoints and its base."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.db.models import Comparison, JobEvent, Preference, Sample
from app.domain.enums import EventKind


class Duel(NamedTuple):
    """One vote between a checkpoint and its base: the checkpoint's score is 1 (won), 0.5 (tie) or 0 (lost)."""

    checkpoint_id: UUID
    rater_id: UUID
    score: float


def alarms(session: Session, job_id: UUID, *, after: int = 0) -> Sequence[dict[str, Any]]:
    """The payloads of a job's alarms in order; `after` leaves out those of a life before a fresh start."""
    return session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.ALARM, JobEvent.seq > after)
        .order_by(JobEvent.seq)
    ).all()


def duels_with_base(session: Session, checkpoint_ids: Collection[UUID], base_id: UUID) -> list[Duel]:
    """First votes on randomly drawn pairs of one of these checkpoints and the base; skips and `both_bad` are left
    out."""
    left, right = aliased(Sample), aliased(Sample)
    sides = (left.checkpoint_id, right.checkpoint_id)
    rows = session.execute(
        select(*sides, Preference.rater_id, Preference.choice)
        .select_from(Preference)
        .join(Comparison, Comparison.id == Preference.comparison_id)
        .join(left, left.id == Comparison.left_sample_id)
        .join(right, right.id == Comparison.right_sample_id)
        .where(
            Comparison.is_random,
            Comparison.repeat_of.is_(None),
            (left.checkpoint_id.in_(checkpoint_ids) & (right.checkpoint_id == base_id))
            | (right.checkpoint_id.in_(checkpoint_ids) & (left.checkpoint_id == base_id)),
        )
    )
    duels = []
    for left_id, right_id, rater_id, choice in rows:
        share = choice.left_share
        if share is not None:
            duels.append(Duel(left_id, rater_id, share) if right_id == base_id else Duel(right_id, rater_id, 1 - share))
    return duels

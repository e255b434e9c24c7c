"""SQL of alarms: what a run has reported of itself, and how people voted between its checkpoints and its base."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from app.db.models import Comparison, JobEvent, Preference, Retraction, Sample
from app.domain.enums import EventKind


class Duel(NamedTuple):
    """One vote between a checkpoint and its base: the checkpoint's score is 1 (won), 0.5 (tie) or 0 (lost)."""

    checkpoint_id: UUID
    rater_id: UUID
    score: float


class LoggedAlarm(NamedTuple):
    """An alarm as a job's log has it."""

    seq: int
    payload: dict[str, Any]


def alarms(session: Session, job_id: UUID, *, after: int = 0) -> Sequence[dict[str, Any]]:
    """The payloads of a job's alarms in order; `after` leaves out those of a life before a fresh start."""
    return session.scalars(
        select(JobEvent.payload)
        .where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.ALARM, JobEvent.seq > after)
        .order_by(JobEvent.seq)
    ).all()


def alarms_of_jobs(session: Session, job_ids: Collection[UUID]) -> dict[UUID, list[LoggedAlarm]]:
    """The alarms of several jobs, each job's in order; nothing for a job without any."""
    rows = session.execute(
        select(JobEvent.job_id, JobEvent.seq, JobEvent.payload)
        .where(JobEvent.job_id.in_(job_ids), JobEvent.kind == EventKind.ALARM)
        .order_by(JobEvent.job_id, JobEvent.seq)
    )
    found: dict[UUID, list[LoggedAlarm]] = {}
    for job_id, seq, payload in rows:
        found.setdefault(job_id, []).append(LoggedAlarm(seq, payload))
    return found


def duels_with_base(session: Session, checkpoint_ids: Collection[UUID], base_id: UUID) -> list[Duel]:
    """`duels_with_bases` where all checkpoints have one base."""
    return duels_with_bases(session, dict.fromkeys(checkpoint_ids, base_id))


def duels_with_bases(session: Session, bases: Mapping[UUID, UUID]) -> list[Duel]:
    """First votes on randomly drawn pairs of a checkpoint and its base (`bases`, by checkpoint); skips, `both_bad` and
    retracted raters are left out."""
    checkpoint_ids, base_ids = set(bases), set(bases.values())
    left, right = aliased(Sample), aliased(Sample)
    sides = (left.checkpoint_id, right.checkpoint_id)
    rows = session.execute(
        select(*sides, Preference.rater_id, Preference.choice)
        .select_from(Preference)
        .join(Comparison, Comparison.id == Preference.comparison_id)
        .join(left, left.id == Comparison.left_sample_id)
        .join(right, right.id == Comparison.right_sample_id)
        .outerjoin(
            Retraction,
            and_(Retraction.campaign_id == Preference.campaign_id, Retraction.rater_id == Preference.rater_id),
        )
        .where(
            Retraction.rater_id.is_(None),
            Comparison.is_random,
            Comparison.repeat_of.is_(None),
            (left.checkpoint_id.in_(checkpoint_ids) & right.checkpoint_id.in_(base_ids))
            | (right.checkpoint_id.in_(checkpoint_ids) & left.checkpoint_id.in_(base_ids)),
        )
    )
    duels = []
    for left_id, right_id, rater_id, choice in rows:
        share = choice.left_share
        if share is None:
            continue
        if bases.get(left_id) == right_id:
            duels.append(Duel(left_id, rater_id, share))
        elif bases.get(right_id) == left_id:
            duels.append(Duel(right_id, rater_id, 1 - share))
    return duels

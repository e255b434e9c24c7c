"""SQL of imported votes: what is here already, and the counts that leases keep."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.models import (
    Campaign,
    CampaignCheckpoint,
    Comparison,
    GoldPair,
    Pair,
    Preference,
    Retraction,
    Sample,
    User,
)
from app.db.queries.bulk import in_chunks, insert_or_ignore


def existing_comparisons(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    found: set[UUID] = set()
    for chunk in in_chunks(ids):
        found.update(session.scalars(select(Comparison.id).where(Comparison.id.in_(chunk))))
    return found


def campaign_samples(
    session: Session, campaign_id: UUID, ids: Sequence[UUID], hashes: Sequence[str]
) -> tuple[dict[UUID, str], dict[str, UUID]]:
    """The campaign's samples among these ids, with their images' hashes; and one for each of these hashes."""
    own = select(CampaignCheckpoint.checkpoint_id).where(CampaignCheckpoint.campaign_id == campaign_id)
    by_id: dict[UUID, str] = {}
    for some_ids in in_chunks(ids):
        rows = session.execute(
            select(Sample.id, Sample.sha256).where(Sample.id.in_(some_ids), Sample.checkpoint_id.in_(own))
        )
        by_id.update((row[0], row[1]) for row in rows)
    by_hash: dict[str, UUID] = {}
    for some_hashes in in_chunks(hashes):
        rows = session.execute(
            select(Sample.id, Sample.sha256)
            .where(Sample.sha256.in_(some_hashes), Sample.checkpoint_id.in_(own))
            .order_by(Sample.ordinal.desc(), Sample.id)
        )
        by_hash.update((row[1], row[0]) for row in rows)
    return by_id, by_hash


def user_ids(session: Session) -> Sequence[UUID]:
    return session.scalars(select(User.id)).all()


def showing_of(session: Session, pair_id: UUID, rater_id: UUID, repetition: int) -> UUID | None:
    """The comparison in which the rater has had this pair; None where they have not."""
    return session.scalar(
        select(Comparison.id)
        .where(
            Comparison.pair_id == pair_id,
            Comparison.rater_id == rater_id,
            Comparison.repetition == repetition,
            ~Comparison.expired,
        )
        .limit(1)
    )


def count_showing(session: Session, pair_id: UUID) -> None:
    session.execute(update(Pair).where(Pair.id == pair_id).values(n_leased=Pair.n_leased + 1))


def count_votes(session: Session, campaign_id: UUID, n: int) -> None:
    session.execute(update(Campaign).where(Campaign.id == campaign_id).values(n_leased=Campaign.n_leased + n))


def ensure_gold(session: Session, campaign_id: UUID, pair_id: UUID, better: UUID, *, now: datetime) -> None:
    row = {"pair_id": pair_id, "campaign_id": campaign_id, "better_sample_id": better, "created_at": now}
    insert_or_ignore(session, GoldPair, [row])


def ensure_retraction(session: Session, campaign_id: UUID, rater_id: UUID, *, now: datetime) -> bool:
    """Retract a rater's votes; False, and nothing changed, where they are retracted already."""
    if session.get(Retraction, (campaign_id, rater_id)) is not None:
        return False
    reason = "retracted where it was exported"
    session.add(Retraction(campaign_id=campaign_id, rater_id=rater_id, reason=reason, retracted_at=now))
    session.flush()
    return True


def raters_who_count(session: Session, campaign_id: UUID, rater_ids: Collection[UUID]) -> set[UUID]:
    """Which of these have given votes in the campaign and are not retracted."""
    retracted = select(Retraction.rater_id).where(Retraction.campaign_id == campaign_id)
    found: set[UUID] = set()
    for chunk in in_chunks(rater_ids):
        voted = select(Preference.rater_id).where(
            Preference.campaign_id == campaign_id, Preference.rater_id.in_(chunk), Preference.rater_id.not_in(retracted)
        )
        found.update(session.scalars(voted.distinct()))
    return found

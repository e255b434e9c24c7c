"""SQL of invitations, of the guests who came by them, and of example pairs."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.models import Campaign, CampaignExample, CampaignRater, Guest, Invitation, Sample, WebSession
from app.db.queries.keyset import Position, Slice, newest_first


def invitations(
    session: Session, campaign_id: UUID, *, after: Position | None = None, limit: int = 50
) -> Slice[Invitation]:
    statement = select(Invitation).where(Invitation.campaign_id == campaign_id)
    return newest_first(session, statement, (Invitation.created_at, Invitation.id), after=after, limit=limit)


def invitation_of_code(session: Session, code_hash: str) -> tuple[Invitation, Campaign] | None:
    row = session.execute(
        select(Invitation, Campaign)
        .join(Campaign, Campaign.id == Invitation.campaign_id)
        .where(Invitation.code_hash == code_hash)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def take_use(session: Session, invitation_id: UUID, now: datetime) -> bool:
    """Count one more use; False, and nothing changed, where the invitation has ended or is used up."""
    taken = session.scalar(
        update(Invitation)
        .where(
            Invitation.id == invitation_id,
            Invitation.n_uses < Invitation.max_uses,
            Invitation.expires_at > now,
            Invitation.revoked_at.is_(None),
        )
        .values(n_uses=Invitation.n_uses + 1)
        .returning(Invitation.id)
    )
    return taken is not None


def end_guest_sessions(session: Session, invitation_id: UUID) -> None:
    """Sign out everybody who came by this invitation."""
    guests = select(Guest.user_id).where(Guest.invitation_id == invitation_id)
    session.execute(delete(WebSession).where(WebSession.user_id.in_(guests)))


def newest_campaign_of(session: Session, user_id: UUID) -> UUID | None:
    """The newest campaign that this user is a member of."""
    return session.scalar(
        select(Campaign.id)
        .join(CampaignRater, CampaignRater.campaign_id == Campaign.id)
        .where(CampaignRater.user_id == user_id)
        .order_by(Campaign.created_at.desc(), Campaign.id)
        .limit(1)
    )


def examples(session: Session, campaign_id: UUID) -> list[tuple[CampaignExample, int]]:
    """A campaign's example pairs, oldest first, and how wide their images are."""
    rows = session.execute(
        select(CampaignExample, Sample.width)
        .join(Sample, Sample.id == CampaignExample.left_sample_id)
        .where(CampaignExample.campaign_id == campaign_id)
        .order_by(CampaignExample.created_at, CampaignExample.id)
    )
    return [(row[0], row[1]) for row in rows]


def example_count(session: Session, campaign_id: UUID) -> int:
    return (
        session.scalar(
            select(func.count()).select_from(CampaignExample).where(CampaignExample.campaign_id == campaign_id)
        )
        or 0
    )


def widths_of(session: Session, sample_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many pixels wide these samples are; those that do not exist are left out."""
    rows = session.execute(select(Sample.id, Sample.width).where(Sample.id.in_(sample_ids)))
    return {row[0]: row[1] for row in rows}


def sample_of_seed(session: Session, checkpoint_id: UUID, seed: int) -> UUID | None:
    """The first sample that was drawn of a checkpoint from this seed."""
    return session.scalar(
        select(Sample.id)
        .where(Sample.checkpoint_id == checkpoint_id, Sample.seed == seed)
        .order_by(Sample.ordinal)
        .limit(1)
    )

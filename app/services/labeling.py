"""What a rater does with a pair that is leased: look at it, vote, undo."""

import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from PIL import Image
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Campaign, Comparison, Preference
from app.db.queries import campaigns as campaign_queries
from app.db.queries import labeling as queries
from app.domain.enums import CampaignStatus, Choice, Role
from app.domain.errors import ConflictError, ForbiddenError, GoneError, NotFoundError
from app.services.accounts import Principal

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Progress:
    """A rater's own part in a campaign."""

    votes: int


def get_campaign_for(session: Session, campaign_id: UUID, rater: Principal) -> Campaign:
    """The campaign, if this person may rate in it: a member, anyone but guests where it is open, and operators.

    Raises:
        NotFoundError: there is no such campaign, or it is not this rater's; which of the two is not told.
    """
    campaign = campaign_queries.get_campaign(session, campaign_id)
    if campaign is None or not (
        rater.role.covers(Role.OPERATOR)
        or (campaign.open and not rater.guest)
        or campaign_queries.is_member(session, campaign_id, rater.user_id)
    ):
        raise NotFoundError("There is no such campaign, or you do not belong to it; ask its operator to add you.")
    return campaign


def rater_progress(session: Session, campaign_id: UUID, rater: Principal) -> Progress:
    return Progress(votes=queries.votes_given(session, campaign_id, rater.user_id))


def record_preference(
    session: Session,
    comparison_id: UUID,
    *,
    rater: Principal,
    choice: Choice,
    response_ms: int | None = None,
    now: datetime,
    undo_seconds: int,
) -> None:
    """Vote on a lease. The same vote again changes nothing; another choice replaces the first while undo is open.

    Raises:
        NotFoundError, ForbiddenError: there is no such lease, or it is somebody else's.
        GoneError: the lease has run out. Leasing again gives the same pair, unless somebody else has it by now.
        ConflictError: the campaign is closed, or the vote can no longer be changed.
    """
    lease, status = _own_lease(session, comparison_id, rater)
    preference = _vote_on(session, lease)
    if preference is not None and preference.choice is choice:
        return
    _require_active(status)
    if preference is not None:
        _require_undo_open(preference, now, undo_seconds)
        preference.choice = choice
        preference.updated_at = now
        return
    if lease.expired or lease.expires_at <= now:
        raise GoneError("This pair was reserved for you for a while and that is over; ask for the next pairs.")
    lease.closed_at = now
    session.add(
        Preference(
            comparison_id=lease.id,
            campaign_id=lease.campaign_id,
            rater_id=rater.user_id,
            choice=choice,
            response_ms=response_ms,
            created_at=now,
            updated_at=now,
        )
    )
    session.flush()


def undo_preference(
    session: Session,
    comparison_id: UUID,
    *,
    rater: Principal,
    now: datetime,
    undo_seconds: int,
    lease_seconds: int,
) -> None:
    """Take a vote back: the pair waits for the same rater again. Undoing what was never voted on changes nothing.

    Raises:
        NotFoundError, ForbiddenError, GoneError, ConflictError: as for a vote.
    """
    lease, status = _own_lease(session, comparison_id, rater)
    preference = _vote_on(session, lease)
    if preference is None:
        if lease.expired:
            raise GoneError("This pair was given back without a vote; ask for the next pairs.")
        return
    _require_active(status)
    _require_undo_open(preference, now, undo_seconds)
    session.delete(preference)
    lease.closed_at = None
    lease.expires_at = now + timedelta(seconds=lease_seconds)
    session.flush()


def comparison_image(
    session: Session, blobs: BlobStore, comparison_id: UUID, side: Side, *, viewer: Principal
) -> bytes:
    """One side of a lease as a PNG that holds nothing but the pixels.

    Raises:
        NotFoundError, ForbiddenError: there is no such lease, or it is somebody else's (operators see all).
    """
    found = queries.lease_image(session, comparison_id, left=side == "left")
    if found is None:
        raise _no_such_lease()
    rater_id, sha256 = found
    if rater_id != viewer.user_id and not viewer.role.covers(Role.OPERATOR):
        raise _foreign_lease()
    return pixels_of(blobs, sha256)


def pixels_of(blobs: BlobStore, sha256: str) -> bytes:
    """A stored image as a PNG without its metadata, which may tell where it comes from."""
    with Image.open(io.BytesIO(blobs.get(sha256))) as stored:
        pixels = Image.frombytes("RGB", stored.size, stored.convert("RGB").tobytes())
    encoded = io.BytesIO()
    pixels.save(encoded, "PNG")
    return encoded.getvalue()


def _own_lease(session: Session, comparison_id: UUID, rater: Principal) -> tuple[Comparison, CampaignStatus]:
    """The rater's lease, held until the transaction ends, and the status of its campaign."""
    found = queries.lock_comparison(session, comparison_id)
    if found is None:
        raise _no_such_lease()
    if found[0].rater_id != rater.user_id:
        raise _foreign_lease()
    return found


def _vote_on(session: Session, lease: Comparison) -> Preference | None:
    return None if lease.closed_at is None else queries.get_preference(session, lease.id)


def _no_such_lease() -> NotFoundError:
    return NotFoundError("There is no such comparison; ask for the next pairs.")


def _foreign_lease() -> ForbiddenError:
    return ForbiddenError("This comparison was leased to somebody else; ask for pairs of your own.")


def _require_active(status: CampaignStatus) -> None:
    if status is CampaignStatus.CLOSED:
        raise ConflictError("This campaign is closed; votes can no longer be given, changed or undone.")


def _require_undo_open(preference: Preference, now: datetime, undo_seconds: int) -> None:
    if now > preference.created_at + timedelta(seconds=undo_seconds):
        raise ConflictError("This vote was given too long ago to be changed or undone.")

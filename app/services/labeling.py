"""What a rater does: lease pairs, look at them, vote, undo."""

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Literal
from uuid import UUID

from PIL import Image
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Campaign, Comparison, Preference
from app.db.queries import campaigns as campaign_queries
from app.db.queries import labeling as queries
from app.domain import pairing
from app.domain.enums import CampaignStatus, Choice, Role
from app.domain.errors import ConflictError, ForbiddenError, GoneError, NotFoundError
from app.services.accounts import Principal
from app.services.pair_selection import Candidate, PairSource

Side = Literal["left", "right"]

_DRAWS = (1, 8, 16, 32)
"""At least so many random pairs a round; one is nearly always enough, and all fail only where little is left."""


@dataclass(frozen=True)
class ComparisonView:
    """A pair as its rater may know it: nothing about where the images come from."""

    id: UUID
    question: str
    expires_at: datetime


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


def lease_comparisons(
    session: Session,
    campaign_id: UUID,
    *,
    rater: Principal,
    n: int,
    holding: Collection[UUID] = (),
    now: datetime,
    lease_seconds: int,
    rng: Random,
) -> list[ComparisonView]:
    """The rater's next `n` pairs: first those that were leased before and wait for a vote, then new ones.

    `holding` are ids that the rater has on screen: they are not returned, and like the returned ones they are reserved
    for `lease_seconds` from now. An overdue lease is its rater's until somebody else leases in the campaign; then it is
    given back. Empty where no pair is left, or none within the budget.

    Raises:
        NotFoundError: no such campaign for this rater.
        ConflictError: the campaign is closed, for everybody or for this rater, or the rater holds as many pairs as one
            may.
    """
    get_campaign_for(session, campaign_id, rater)
    campaign = queries.lock_campaign(session, campaign_id)
    if campaign is None or campaign.status is CampaignStatus.CLOSED:
        raise ConflictError("This campaign is closed; it takes no more votes.")
    if queries.is_retracted(session, campaign_id, rater.user_id):
        raise ConflictError("The operator has ended your part in this campaign; it takes no more votes from you.")
    queries.give_back_overdue(session, campaign_id, but_of=rater.user_id, now=now)
    own = queries.open_leases(session, campaign_id, rater.user_id)
    waiting = [lease for lease in own if lease.id not in holding]
    if not waiting and len(own) >= pairing.MAX_OPEN_LEASES:
        raise ConflictError(f"You hold {len(own)} pairs; vote on some before asking for more.")
    leases = waiting[:n]
    room = min(n - len(leases), pairing.MAX_OPEN_LEASES - len(own))
    expires_at = now + timedelta(seconds=lease_seconds)
    for lease in own:
        if lease in leases or lease.id in holding:
            lease.expires_at = expires_at
    leases += _lease_new(session, campaign, rater.user_id, room, now=now, expires_at=expires_at, rng=rng)
    return [ComparisonView(lease.id, campaign.question, lease.expires_at) for lease in leases]


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


def _lease_new(
    session: Session, campaign: Campaign, rater_id: UUID, room: int, *, now: datetime, expires_at: datetime, rng: Random
) -> list[Comparison]:
    if campaign.budget is not None:
        room = min(room, campaign.budget - campaign.n_leased)
    if room <= 0:
        return []
    leases = _repeats(session, campaign, rater_id, room, now=now, expires_at=expires_at, rng=rng)
    leases += _gold(session, campaign, rater_id, room - len(leases), now=now, expires_at=expires_at, rng=rng)
    shown = {frozenset((lease.left_sample_id, lease.right_sample_id)) for lease in leases}
    for pair_id, candidate in _claims(session, campaign, rater_id, room - len(leases), shown, now=now, rng=rng):
        left, right = pairing.shuffled_sides(candidate.samples, rng)
        leases.append(
            Comparison(
                campaign_id=campaign.id,
                pair_id=pair_id,
                rater_id=rater_id,
                left_sample_id=left,
                right_sample_id=right,
                strategy=candidate.strategy,
                is_random=candidate.is_random,
                selection_probability=candidate.probability,
                leased_at=now,
                expires_at=expires_at,
            )
        )
    session.add_all(leases)
    if not queries.take_budget(session, campaign.id, len(leases)):
        raise ConflictError("The campaign's budget was used up at this moment; ask again.")
    session.flush()
    return sorted(leases, key=lambda lease: lease.id)  # ids are random: repeats and gold do not stand out by place


def _claims(
    session: Session,
    campaign: Campaign,
    rater_id: UUID,
    room: int,
    shown: Collection[frozenset[UUID]],
    *,
    now: datetime,
    rng: Random,
) -> Iterator[tuple[UUID, Candidate]]:
    """Up to `room` pairs claimed for the rater: those that others have begun, random ones, then whatever is left.

    `shown` are pairs that go out beside them.
    """
    taken = set(shown)  # these and what is claimed here are not in the database before the caller has stored them
    if room <= 0:
        return
    for candidate in _candidates(session, campaign, rater_id, room, rng):
        if frozenset(candidate.samples) in taken:
            continue
        pair_id = queries.claim_pair(
            session, campaign.id, candidate.samples, overlap=campaign.overlap, rater_id=rater_id, now=now
        )
        if pair_id is not None:
            taken.add(frozenset(candidate.samples))
            yield pair_id, candidate
            room -= 1
            if room == 0:
                return


def _candidates(session: Session, campaign: Campaign, rater_id: UUID, room: int, rng: Random) -> Iterator[Candidate]:
    if campaign.overlap > 1:
        for begun in queries.begun_pairs(session, campaign.id, rater_id, overlap=campaign.overlap, limit=room):
            # how a pair was chosen is decided once; those who judge it next inherit that
            yield Candidate(
                begun.samples, begun.first.strategy, begun.first.is_random, begun.first.selection_probability
            )
    source = PairSource(session, campaign, rater_id, rng)
    for at_least in _DRAWS:
        yield from source.draw(max(room, at_least))
    yield from source.scan()


def _repeats(
    session: Session, campaign: Campaign, rater_id: UUID, room: int, *, now: datetime, expires_at: datetime, rng: Random
) -> list[Comparison]:
    """A few of the rater's earlier pairs with sides swapped. They use the budget but none of a pair's places."""
    wanted = sum(rng.random() < pairing.REPEAT_SHARE for _ in range(room))
    if not wanted:
        return []
    enough = pairing.REPEATS_BEGIN_AFTER
    if queries.votes_given(session, campaign.id, rater_id, up_to=enough) < enough:
        return []
    earlier = queries.repeatable(session, campaign.id, rater_id)
    repeats = []
    for id in rng.sample(earlier, min(wanted, len(earlier))):
        first = session.get_one(Comparison, id)
        repeats.append(
            Comparison(
                campaign_id=campaign.id,
                pair_id=first.pair_id,
                rater_id=rater_id,
                left_sample_id=first.right_sample_id,
                right_sample_id=first.left_sample_id,
                strategy=first.strategy,
                is_random=first.is_random,
                selection_probability=first.selection_probability,
                repetition=1,
                repeat_of=first.id,
                leased_at=now,
                expires_at=expires_at,
            )
        )
    return repeats


def _gold(
    session: Session, campaign: Campaign, rater_id: UUID, room: int, *, now: datetime, expires_at: datetime, rng: Random
) -> list[Comparison]:
    """A few pairs whose answer is known, each at most once a rater. Like repeats they take none of a pair's places."""
    wanted = sum(rng.random() < pairing.GOLD_SHARE for _ in range(room))
    if not wanted:
        return []
    unseen = queries.gold_for(session, campaign.id, rater_id)
    leases = []
    for pair_id, *samples in rng.sample(unseen, min(wanted, len(unseen))):
        left, right = pairing.shuffled_sides((samples[0], samples[1]), rng)
        leases.append(
            Comparison(
                campaign_id=campaign.id,
                pair_id=pair_id,
                rater_id=rater_id,
                left_sample_id=left,
                right_sample_id=right,
                strategy=campaign.strategy,
                is_random=False,
                is_gold=True,
                selection_probability=1 / len(unseen),
                leased_at=now,
                expires_at=expires_at,
            )
        )
    return leases


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

"""Leasing pairs to raters: what waited, repeats, gold and new pairs, within the overlap and the budget."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Campaign, Comparison
from app.db.queries import labeling as queries
from app.domain import pairing
from app.domain.enums import CampaignStatus
from app.domain.errors import ConflictError
from app.services.accounts import Principal
from app.services.labeling import get_campaign_for
from app.services.pair_selection import Candidate, PairSource

_DRAWS = (1, 8, 16, 32)
"""At least so many random pairs a round; one is nearly always enough, and all fail only where little is left."""


@dataclass(frozen=True)
class ComparisonView:
    """A pair as its rater may know it: nothing about where the images come from."""

    id: UUID
    question: str
    expires_at: datetime


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

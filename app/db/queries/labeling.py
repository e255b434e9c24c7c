"""SQL of leases and votes.

Whoever leases holds the campaign's row first, so that overlap and budget are counted by one at a time and no two leases
wait for each other's pairs; on SQLite the whole write transaction is exclusive anyway. Votes lock their lease only.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.models import Campaign, Comparison, GoldPair, Pair, Preference, Retraction, Sample
from app.db.queries.bulk import in_chunks, insert_or_ignore
from app.domain.enums import CampaignStatus, Choice
from app.domain.pairing import REPEAT_DISTANCE, REPEAT_WINDOW, canonical


class Place(NamedTuple):
    """Where a sample is found in constant time."""

    checkpoint_id: UUID
    ordinal: int


@dataclass(frozen=True)
class BegunPair:
    """A pair that others have judged or hold, with what its first lease recorded about how it was chosen."""

    samples: tuple[UUID, UUID]
    first: Comparison


def lock_campaign(session: Session, campaign_id: UUID) -> Campaign | None:
    """The campaign, held until the transaction ends: nobody else leases, gives back or closes meanwhile."""
    return session.scalar(
        select(Campaign)
        .where(Campaign.id == campaign_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )


def lock_comparison(session: Session, comparison_id: UUID) -> tuple[Comparison, CampaignStatus] | None:
    """A comparison, held until the transaction ends, and the status of its campaign."""
    row = session.execute(
        select(Comparison, Campaign.status)
        .join(Campaign, Campaign.id == Comparison.campaign_id)
        .where(Comparison.id == comparison_id)
        .with_for_update(key_share=True, of=Comparison)
        .execution_options(populate_existing=True)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def lease_image(session: Session, comparison_id: UUID, *, left: bool) -> tuple[UUID, str] | None:
    """The rater whose lease it is, and the blob of one of its images."""
    side = Comparison.left_sample_id if left else Comparison.right_sample_id
    row = session.execute(
        select(Comparison.rater_id, Sample.sha256).join(Sample, Sample.id == side).where(Comparison.id == comparison_id)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def get_preference(session: Session, comparison_id: UUID) -> Preference | None:
    return session.get(Preference, comparison_id, populate_existing=True)


def votes_given(session: Session, campaign_id: UUID, rater_id: UUID, *, up_to: int | None = None) -> int:
    """How many votes the rater has given here; counting ends at `up_to`."""
    votes = (
        select(Comparison.id)
        .join(Preference, Preference.comparison_id == Comparison.id)
        .where(Comparison.campaign_id == campaign_id, Comparison.rater_id == rater_id)
        .limit(up_to)
    )
    return session.scalar(select(func.count()).select_from(votes.subquery())) or 0


def open_leases(session: Session, campaign_id: UUID, rater_id: UUID) -> Sequence[Comparison]:
    """The rater's pairs that wait for a vote, oldest first, overdue ones included."""
    return session.scalars(
        select(Comparison)
        .where(Comparison.campaign_id == campaign_id, Comparison.rater_id == rater_id, Comparison.closed_at.is_(None))
        .order_by(Comparison.leased_at, Comparison.id)
    ).all()


def give_back_overdue(session: Session, campaign_id: UUID, *, but_of: UUID, now: datetime) -> None:
    """End the overdue leases of everybody but one rater; their pairs and their share of the budget are free again."""
    ended = session.execute(
        update(Comparison)
        .where(
            Comparison.campaign_id == campaign_id,
            Comparison.closed_at.is_(None),
            Comparison.expires_at <= now,
            Comparison.rater_id != but_of,
        )
        .values(expired=True, closed_at=now)
        .returning(Comparison.pair_id, Comparison.repetition, Comparison.is_gold)
        .execution_options(synchronize_session=False)
    ).all()
    if not ended:
        return
    held = Counter(pair_id for pair_id, repetition, is_gold in ended if repetition == 0 and not is_gold)
    for pair_id, n in held.items():
        session.execute(update(Pair).where(Pair.id == pair_id).values(n_leased=Pair.n_leased - n))
    session.execute(update(Campaign).where(Campaign.id == campaign_id).values(n_leased=Campaign.n_leased - len(ended)))


def take_budget(session: Session, campaign_id: UUID, n: int) -> bool:
    """Count `n` new leases against the campaign's budget; False, and nothing changed, where it does not reach."""
    taken = session.scalar(
        update(Campaign)
        .where(Campaign.id == campaign_id, or_(Campaign.budget.is_(None), Campaign.n_leased + n <= Campaign.budget))
        .values(n_leased=Campaign.n_leased + n)
        .returning(Campaign.id)
    )
    return taken is not None


def claim_pair(
    session: Session, campaign_id: UUID, samples: tuple[UUID, UUID], *, overlap: int, rater_id: UUID, now: datetime
) -> UUID | None:
    """Take one of a pair's `overlap` places and return its id; None where they are taken or the rater has had one."""
    a, b = _store_pair(session, campaign_id, samples, now)
    values = {"in_campaign": campaign_id, "a": a, "b": b, "places": overlap, "by": rater_id}
    claimed: UUID | None = session.scalar(_CLAIM, values)
    return claimed


def ensure_pair(session: Session, campaign_id: UUID, samples: tuple[UUID, UUID], *, now: datetime) -> UUID:
    """The id of a pair, stored if it was never chosen before; none of its places is taken."""
    a, b = _store_pair(session, campaign_id, samples, now)
    return session.scalars(
        select(Pair.id).where(Pair.campaign_id == campaign_id, Pair.sample_a_id == a, Pair.sample_b_id == b)
    ).one()


def gold_for(session: Session, campaign_id: UUID, rater_id: UUID, *, limit: int = 100) -> list[tuple[UUID, UUID, UUID]]:
    """(pair, its two samples) of gold pairs that this rater has not seen in any way, oldest first."""
    rows = session.execute(
        select(Pair.id, Pair.sample_a_id, Pair.sample_b_id)
        .join(GoldPair, GoldPair.pair_id == Pair.id)
        .where(GoldPair.campaign_id == campaign_id, GoldPair.retired_at.is_(None), ~_had_by(rater_id))
        .order_by(GoldPair.created_at, Pair.id)
        .limit(limit)
    )
    return [(pair, a, b) for pair, a, b in rows]


def is_retracted(session: Session, campaign_id: UUID, rater_id: UUID) -> bool:
    return session.get(Retraction, (campaign_id, rater_id)) is not None


_PAIR, _COMPARISON = Pair.__table__.c, Comparison.__table__.c
_CLAIM = (  # built once: a call may try many pairs, and building the statement takes longer than running it
    update(Pair.__table__)  # type: ignore[arg-type]
    .where(
        _PAIR.campaign_id == bindparam("in_campaign"),
        _PAIR.sample_a_id == bindparam("a"),
        _PAIR.sample_b_id == bindparam("b"),
        _PAIR.n_leased < bindparam("places"),
        ~exists().where(
            _COMPARISON.pair_id == _PAIR.id,
            _COMPARISON.rater_id == bindparam("by"),
            ~_COMPARISON.expired,
        ),
    )
    .values(n_leased=_PAIR.n_leased + 1)
    .returning(_PAIR.id)
)


def begun_pairs(session: Session, campaign_id: UUID, rater_id: UUID, *, overlap: int, limit: int) -> list[BegunPair]:
    """Pairs that others have begun and that still have a place: the fullest first, of these the oldest."""
    rows = session.scalars(
        select(Pair)
        .where(Pair.campaign_id == campaign_id, Pair.n_leased.between(1, overlap - 1), ~_had_by(rater_id))
        .order_by(Pair.n_leased.desc(), Pair.created_at, Pair.id)  # as ix_pair_begun has them
        .limit(limit)
    ).all()
    first: dict[UUID, Comparison] = {}
    for lease in session.scalars(
        select(Comparison)
        # without `expired` no index leads from a pair to its leases
        .where(Comparison.pair_id.in_([pair.id for pair in rows]), ~Comparison.expired, ~Comparison.is_gold)
        .order_by(Comparison.leased_at, Comparison.id)
    ):
        first.setdefault(lease.pair_id, lease)
    return [BegunPair((pair.sample_a_id, pair.sample_b_id), first[pair.id]) for pair in rows]


def repeatable(session: Session, campaign_id: UUID, rater_id: UUID) -> list[UUID]:
    """Comparisons that the rater has judged a while ago, but not too long, and that have not come back yet."""
    again = aliased(Comparison)
    return list(
        session.scalars(
            select(Comparison.id)
            .join(Preference, Preference.comparison_id == Comparison.id)
            .where(
                Comparison.campaign_id == campaign_id,
                Comparison.rater_id == rater_id,
                Comparison.repetition == 0,
                ~Comparison.is_gold,
                Preference.choice != Choice.SKIP,
                ~exists().where(
                    again.pair_id == Comparison.pair_id,
                    again.rater_id == rater_id,
                    again.repetition == 1,
                    ~again.expired,
                ),
            )
            .order_by(Comparison.leased_at.desc(), Comparison.id)
            .offset(REPEAT_DISTANCE)
            .limit(REPEAT_WINDOW)
        )
    )


def samples_at(session: Session, places: Sequence[Place]) -> dict[Place, UUID]:
    """The ids of the samples at these places; a place that is empty is left out."""
    found: dict[Place, UUID] = {}
    for chunk in in_chunks(places):
        rows = session.execute(select(Sample.checkpoint_id, Sample.ordinal, Sample.id).where(_at_places(Sample, chunk)))
        found.update((Place(checkpoint_id, ordinal), id) for checkpoint_id, ordinal, id in rows)
    return found


def twins_at(session: Session, reference_id: UUID, places: Sequence[Place]) -> dict[Place, tuple[UUID, UUID]]:
    """(sample, the reference checkpoint's sample of the same noise) for those of these places that have such a twin."""
    own, twin = aliased(Sample), aliased(Sample)
    rows = session.execute(
        select(own.checkpoint_id, own.ordinal, own.id, twin.id)
        .join(twin, _same_noise(own, twin, reference_id))
        .where(_at_places(own, places))
    )
    return {Place(checkpoint_id, ordinal): (own_id, twin_id) for checkpoint_id, ordinal, own_id, twin_id in rows}


def shared_noise_counts(session: Session, reference_id: UUID, checkpoint_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many samples of each checkpoint the reference has drawn from the same noise; those without any left out."""
    own, twin = aliased(Sample), aliased(Sample)
    rows = session.execute(
        select(own.checkpoint_id, func.count())
        .join(twin, _same_noise(own, twin, reference_id))
        .where(own.checkpoint_id.in_(checkpoint_ids))
        .group_by(own.checkpoint_id)
    )
    return {row[0]: row[1] for row in rows}


def servable_pairs(
    session: Session, campaign: Campaign, checkpoint_ids: Sequence[UUID], rater_id: UUID, *, limit: int
) -> list[tuple[UUID, UUID]]:
    """Every pair of the campaign's samples that this rater may still get, by an exact scan."""
    first, second = aliased(Sample), aliased(Sample)
    pairs = select(first.id, second.id).where(
        first.checkpoint_id.in_(checkpoint_ids), second.checkpoint_id.in_(checkpoint_ids), first.id < second.id
    )
    taken = exists().where(
        Pair.campaign_id == campaign.id,
        Pair.sample_a_id == first.id,
        Pair.sample_b_id == second.id,
        _used_up(campaign, rater_id),
    )
    return _scan(session, pairs, taken, limit)


def servable_twins(
    session: Session,
    campaign: Campaign,
    reference_id: UUID,
    checkpoint_ids: Sequence[UUID],
    rater_id: UUID,
    *,
    limit: int,
) -> list[tuple[UUID, UUID]]:
    """Every pair of a tournament that this rater may still get, by an exact scan."""
    own, twin = aliased(Sample), aliased(Sample)
    pairs = (
        select(own.id, twin.id)
        .join(twin, _same_noise(own, twin, reference_id))
        .where(own.checkpoint_id.in_(checkpoint_ids))
    )
    either_way = or_(
        and_(Pair.sample_a_id == own.id, Pair.sample_b_id == twin.id),
        and_(Pair.sample_a_id == twin.id, Pair.sample_b_id == own.id),
    )
    taken = exists().where(Pair.campaign_id == campaign.id, either_way, _used_up(campaign, rater_id))
    return _scan(session, pairs, taken, limit)


def sample_sha256(session: Session, sample_id: UUID) -> str:
    return session.scalars(select(Sample.sha256).where(Sample.id == sample_id)).one()


def _store_pair(session: Session, campaign_id: UUID, samples: tuple[UUID, UUID], now: datetime) -> tuple[UUID, UUID]:
    a, b = canonical(*samples)
    row = {"id": uuid4(), "campaign_id": campaign_id, "sample_a_id": a, "sample_b_id": b, "n_leased": 0}
    insert_or_ignore(session, Pair, [row | {"created_at": now}])
    return a, b


def _had_by(rater_id: UUID) -> ColumnElement[bool]:
    """Whether the rater holds or has judged the pair."""
    return exists().where(Comparison.pair_id == Pair.id, Comparison.rater_id == rater_id, ~Comparison.expired)


def _used_up(campaign: Campaign, rater_id: UUID) -> ColumnElement[bool]:
    return or_(Pair.n_leased >= campaign.overlap, _had_by(rater_id))


def _at_places(sample: type[Sample], places: Sequence[Place]) -> ColumnElement[bool]:
    """Spelled so that both databases look every place up in the unique index; SQLite scans for an IN of tuples."""
    ordinals: dict[UUID, list[int]] = defaultdict(list)
    for place in places:
        ordinals[place.checkpoint_id].append(place.ordinal)
    return or_(*(and_(sample.checkpoint_id == id, sample.ordinal.in_(some)) for id, some in ordinals.items()))


def _same_noise(own: type[Sample], twin: type[Sample], reference_id: UUID) -> ColumnElement[bool]:
    return and_(
        twin.checkpoint_id == reference_id,
        twin.seed == own.seed,
        twin.steps == own.steps,
        twin.eta == own.eta,
        twin.guidance_key == own.guidance_key,
    )


def _scan(
    session: Session, pairs: Select[UUID, UUID], taken: ColumnElement[bool], limit: int
) -> list[tuple[UUID, UUID]]:
    return [(first, second) for first, second in session.execute(pairs.where(~taken).limit(limit))]

"""SQL of campaigns: lists, members, and the votes that statistics and the export read."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.models import (
    ApiToken,
    Campaign,
    CampaignCheckpoint,
    CampaignRater,
    Checkpoint,
    Comparison,
    GoldPair,
    Pair,
    Preference,
    Retraction,
    Sample,
    User,
)
from app.db.queries.bulk import insert_or_ignore
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import Choice


class VoteRow(NamedTuple):
    """One vote with what the statistics need to know about its pair."""

    comparison_id: UUID
    pair_id: UUID
    rater_id: UUID
    choice: Choice
    response_ms: int | None
    is_random: bool
    repeat_of: UUID | None
    left_sample_id: UUID
    sample_a_id: UUID
    right_sample_id: UUID
    left_checkpoint_id: UUID
    right_checkpoint_id: UUID
    created_at: datetime
    better_sample_id: UUID | None
    """Of a pair that was shown for its known answer."""
    is_retracted: bool
    """Whether the rater's votes were retracted."""


class ExportRow(NamedTuple):
    """One vote with everything needed to fit it elsewhere."""

    comparison_id: UUID
    campaign_id: UUID
    pair_id: UUID
    rater_id: UUID
    left_sample_id: UUID
    right_sample_id: UUID
    left_checkpoint_id: UUID
    right_checkpoint_id: UUID
    left_seed: int
    right_seed: int
    left_sha256: str
    right_sha256: str
    choice: str
    response_ms: int | None
    strategy: str
    is_random: bool
    selection_probability: float
    repetition: int
    repeat_of: UUID | None
    gold: str | None
    """`left` or `right` where the pair was shown for its known answer; such votes measure the rater only."""
    retracted: bool
    leased_at: datetime
    created_at: datetime
    updated_at: datetime


def get_campaign(session: Session, campaign_id: UUID) -> Campaign | None:
    return session.get(Campaign, campaign_id)


def is_member(session: Session, campaign_id: UUID, user_id: UUID) -> bool:
    return session.get(CampaignRater, (campaign_id, user_id)) is not None


def campaigns(session: Session, *, visible_to: UUID | None, after: Position | None, limit: int) -> Slice[Campaign]:
    """Newest first. `visible_to` leaves only what this rater may take part in; None shows all."""
    statement = select(Campaign)
    if visible_to is not None:
        own = select(CampaignRater.campaign_id).where(CampaignRater.user_id == visible_to)
        statement = statement.where(or_(Campaign.open, Campaign.id.in_(own)))
    return newest_first(session, statement, (Campaign.created_at, Campaign.id), after=after, limit=limit)


def checkpoints_of(session: Session, campaign_id: UUID) -> Sequence[Checkpoint]:
    """A campaign's checkpoints in the order given."""
    return session.scalars(
        select(Checkpoint)
        .join(CampaignCheckpoint, CampaignCheckpoint.checkpoint_id == Checkpoint.id)
        .where(CampaignCheckpoint.campaign_id == campaign_id)
        .order_by(CampaignCheckpoint.position)
        .execution_options(populate_existing=True)
    ).all()


def checkpoint_ids(session: Session, campaign_ids: Collection[UUID]) -> dict[UUID, list[UUID]]:
    """Each campaign's checkpoints in the order given."""
    found: dict[UUID, list[UUID]] = {id: [] for id in campaign_ids}
    rows = session.execute(
        select(CampaignCheckpoint.campaign_id, CampaignCheckpoint.checkpoint_id)
        .where(CampaignCheckpoint.campaign_id.in_(campaign_ids))
        .order_by(CampaignCheckpoint.position)
    )
    for campaign_id, checkpoint_id in rows:
        found[campaign_id].append(checkpoint_id)
    return found


def vote_counts(session: Session, campaign_ids: Collection[UUID]) -> dict[UUID, int]:
    """Votes by campaign; campaigns without any are left out."""
    rows = session.execute(
        select(Preference.campaign_id, func.count())
        .where(Preference.campaign_id.in_(campaign_ids))
        .group_by(Preference.campaign_id)
    )
    return {row[0]: row[1] for row in rows}


def raters_of(session: Session, campaign_id: UUID) -> Sequence[User]:
    """The members of a campaign by name."""
    return session.scalars(
        select(User)
        .join(CampaignRater, CampaignRater.user_id == User.id)
        .where(CampaignRater.campaign_id == campaign_id)
        .order_by(User.name)
    ).all()


def add_raters(session: Session, campaign_id: UUID, user_ids: Collection[UUID]) -> None:
    """Make these users members; those who are already stay so."""
    if user_ids:
        insert_or_ignore(
            session, CampaignRater, [{"campaign_id": campaign_id, "user_id": id} for id in sorted(set(user_ids))]
        )


def users_by_id(session: Session, user_ids: Collection[UUID]) -> dict[UUID, User]:
    return {user.id: user for user in session.scalars(select(User).where(User.id.in_(user_ids)))}


def users_of_token(session: Session, name: str, now: datetime) -> Sequence[UUID]:
    """The users who hold a live token of this name."""
    return session.scalars(
        select(ApiToken.user_id)
        .join(User, User.id == ApiToken.user_id)
        .where(
            ApiToken.name == name,
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now),
            User.disabled_at.is_(None),
        )
        .distinct()
    ).all()


def votes(session: Session, campaign_id: UUID) -> list[VoteRow]:
    """Every vote of a campaign, oldest first."""
    left, right = aliased(Sample), aliased(Sample)
    rows = session.execute(
        select(
            Comparison.id,
            Comparison.pair_id,
            Comparison.rater_id,
            Preference.choice,
            Preference.response_ms,
            Comparison.is_random,
            Comparison.repeat_of,
            Comparison.left_sample_id,
            Pair.sample_a_id,
            Comparison.right_sample_id,
            left.checkpoint_id,
            right.checkpoint_id,
            Preference.created_at,
            GoldPair.better_sample_id,
            Retraction.rater_id.is_not(None),
        )
        .join(Preference, Preference.comparison_id == Comparison.id)
        .join(Pair, Pair.id == Comparison.pair_id)
        .outerjoin(GoldPair, _shown_as_gold())
        .outerjoin(Retraction, _retracted())
        .join(left, left.id == Comparison.left_sample_id)
        .join(right, right.id == Comparison.right_sample_id)
        .where(Preference.campaign_id == campaign_id)
        .order_by(Preference.created_at, Comparison.id)
    )
    return [VoteRow._make(row) for row in rows]


def export_rows(session: Session, campaign_id: UUID) -> Iterator[ExportRow]:
    """Every vote of a campaign, oldest first, fetched as it is read."""
    rows = session.execute(_export_query(campaign_id), execution_options={"yield_per": 500})
    return (ExportRow(*row) for row in rows)


def _shown_as_gold() -> ColumnElement[bool]:
    return and_(Comparison.is_gold, GoldPair.pair_id == Comparison.pair_id)


def _retracted() -> ColumnElement[bool]:
    return and_(Retraction.campaign_id == Comparison.campaign_id, Retraction.rater_id == Comparison.rater_id)


def _export_query(campaign_id: UUID) -> Select[*tuple[Any, ...]]:
    left, right = aliased(Sample), aliased(Sample)
    return (
        select(
            Comparison.id,
            Comparison.campaign_id,
            Comparison.pair_id,
            Comparison.rater_id,
            left.id,
            right.id,
            left.checkpoint_id,
            right.checkpoint_id,
            left.seed,
            right.seed,
            left.sha256,
            right.sha256,
            Preference.choice,
            Preference.response_ms,
            Comparison.strategy,
            Comparison.is_random,
            Comparison.selection_probability,
            Comparison.repetition,
            Comparison.repeat_of,
            case(
                (GoldPair.better_sample_id == Comparison.left_sample_id, Choice.LEFT.value),
                (GoldPair.better_sample_id == Comparison.right_sample_id, Choice.RIGHT.value),
            ),
            Retraction.rater_id.is_not(None),
            Comparison.leased_at,
            Preference.created_at,
            Preference.updated_at,
        )
        .join(Preference, Preference.comparison_id == Comparison.id)
        .outerjoin(GoldPair, _shown_as_gold())
        .outerjoin(Retraction, _retracted())
        .join(left, left.id == Comparison.left_sample_id)
        .join(right, right.id == Comparison.right_sample_id)
        .where(Preference.campaign_id == campaign_id)
        .order_by(Preference.created_at, Comparison.id)
    )

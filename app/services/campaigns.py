"""Campaigns for operators: open one, see it, change it, add raters, close it and open it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Campaign, CampaignCheckpoint
from app.db.queries import accounts as account_queries
from app.db.queries import campaigns as queries
from app.db.queries import gallery as gallery_queries
from app.db.queries import labeling as labeling_queries
from app.db.queries.keyset import Position, Slice
from app.db.queries.webhooks import announce_campaign_end
from app.domain.enums import CampaignStatus, Role, Strategy
from app.domain.errors import ConflictError, InvalidSpecError, NotFoundError
from app.services import audit
from app.services.accounts import Principal
from app.services.labeling import get_campaign_for


@dataclass(frozen=True)
class CampaignView:
    """A campaign as operators see it. `votes` is in all; `n_leased` is votes plus pairs that wait for one."""

    id: UUID
    name: str
    question: str
    guidelines: str
    checkpoint_ids: list[UUID]
    overlap: int
    strategy: Strategy
    budget: int | None
    open: bool
    status: CampaignStatus
    votes: int
    n_leased: int
    created_by: UUID | None
    created_at: datetime


@dataclass(frozen=True)
class RaterCampaignView:
    """A campaign as its raters see it: without checkpoints and strategy, which would unblind. `votes` are their own."""

    id: UUID
    name: str
    question: str
    guidelines: str
    open: bool
    status: CampaignStatus
    votes: int
    created_at: datetime


@dataclass(frozen=True)
class MemberView:
    """A rater of a campaign."""

    user_id: UUID
    name: str


def create_campaign(
    session: Session,
    *,
    name: str,
    question: str,
    guidelines: str = "",
    checkpoint_ids: Sequence[UUID],
    overlap: int = 1,
    strategy: Strategy = Strategy.UNIFORM,
    budget: int | None = None,
    open: bool = False,
    creator: Principal,
    now: datetime,
) -> CampaignView:
    """Put a question to raters.

    Raises:
        InvalidSpecError: a checkpoint is unknown or named twice, or there are too few samples to make a pair.
    """
    _require_checkpoints(session, checkpoint_ids, strategy)
    campaign = Campaign(
        name=name,
        question=question,
        guidelines=guidelines,
        strategy=strategy,
        overlap=overlap,
        budget=budget,
        n_leased=0,
        open=open,
        status=CampaignStatus.ACTIVE,
        created_by=creator.user_id,
        created_at=now,
    )
    session.add(campaign)
    session.flush()
    session.add_all(
        CampaignCheckpoint(campaign_id=campaign.id, checkpoint_id=id, position=position)
        for position, id in enumerate(checkpoint_ids)
    )
    audit.record(session, creator.user_id, "campaign.create", campaign.id, now, name=name)
    session.flush()
    return _operator_views(session, [campaign])[0]


def get_campaign(session: Session, campaign_id: UUID, viewer: Principal) -> CampaignView | RaterCampaignView:
    """The campaign as this person may see it.

    Raises:
        NotFoundError: there is none, or it is not theirs.
    """
    return _views(session, [get_campaign_for(session, campaign_id, viewer)], viewer)[0]


def list_campaigns(
    session: Session, viewer: Principal, *, after: Position | None = None, limit: int = 50
) -> Slice[CampaignView | RaterCampaignView]:
    """Newest first: all of them for operators, for raters those that they may take part in."""
    visible_to = None if viewer.role.covers(Role.OPERATOR) else viewer.user_id
    found = queries.campaigns(session, visible_to=visible_to, after=after, limit=limit)
    return Slice(list(_views(session, found.items, viewer)), found.end)


def add_raters(
    session: Session,
    campaign_id: UUID,
    *,
    user_ids: Sequence[UUID] = (),
    token_names: Sequence[str] = (),
    now: datetime,
) -> list[MemberView]:
    """Make users members, by their ids or by the names of their tokens (or their own). Returns all members.

    A token's name that several users hold adds all of them.

    Raises:
        NotFoundError: there is no such campaign.
        InvalidSpecError: an id or a name belongs to nobody.
    """
    _require(session, campaign_id)
    known = queries.users_by_id(session, user_ids)
    errors = [
        {"field": "user_ids", "message": f"There is no active user {id}."}
        for id in user_ids
        if id not in known or known[id].disabled_at is not None
    ]
    members = set(known)
    for name in token_names:
        holders = set(queries.users_of_token(session, name, now))
        user = account_queries.user_by_name(session, name)
        if user is not None and user.disabled_at is None:
            holders.add(user.id)
        if not holders:
            errors.append({"field": "token_names", "message": f"Nobody has a live token named {name!r}."})
        members |= holders
    if errors:
        raise InvalidSpecError(" ".join(error["message"] for error in errors), errors)
    queries.add_raters(session, campaign_id, members)
    return list_raters(session, campaign_id)


def list_raters(session: Session, campaign_id: UUID) -> list[MemberView]:
    """A campaign's members by name; an open campaign takes others too."""
    return [MemberView(user.id, user.name) for user in queries.raters_of(session, campaign_id)]


def change_campaign(
    session: Session, who: Principal, campaign_id: UUID, changes: Mapping[str, Any], now: datetime
) -> CampaignView:
    """Change `name`, `guidelines`, `budget` (None has no end) or `open`; what is not named stays as it is.

    The question, the checkpoints and the way pairs are chosen stay: votes that were given answer them.

    Raises:
        NotFoundError: there is no such campaign.
        ConflictError: the budget is below the votes and open pairs that there are.
    """
    campaign = labeling_queries.lock_campaign(session, campaign_id)
    if campaign is None:
        raise _no_such_campaign()
    budget = changes.get("budget")
    if budget is not None and budget < campaign.n_leased:
        raise ConflictError(
            f"The campaign has {campaign.n_leased:,} votes and pairs that wait for one; ask for that many or more."
        )
    changed = {name: value for name, value in changes.items() if getattr(campaign, name) != value}
    for name, value in changed.items():
        setattr(campaign, name, value)
    if changed:
        session.flush()
        audit.record(
            session, who.user_id, "campaign.change", campaign_id, now, name=campaign.name, changed=", ".join(changed)
        )
    return _operator_views(session, [campaign])[0]


def close_campaign(session: Session, who: Principal, campaign_id: UUID, now: datetime) -> CampaignView:
    """Take no more votes. Closing again changes nothing.

    Raises:
        NotFoundError: there is no such campaign.
    """
    campaign = labeling_queries.lock_campaign(session, campaign_id)
    if campaign is None:
        raise _no_such_campaign()
    if campaign.status is not CampaignStatus.CLOSED:
        campaign.status = CampaignStatus.CLOSED
        session.flush()
        audit.record(session, who.user_id, "campaign.close", campaign_id, now, name=campaign.name)
        announce_campaign_end(session, campaign, now)
    return _operator_views(session, [campaign])[0]


def reopen_campaign(session: Session, who: Principal, campaign_id: UUID, now: datetime) -> CampaignView:
    """Take votes again. Opening an open campaign changes nothing.

    Raises:
        NotFoundError: there is no such campaign.
    """
    campaign = labeling_queries.lock_campaign(session, campaign_id)
    if campaign is None:
        raise _no_such_campaign()
    if campaign.status is not CampaignStatus.ACTIVE:
        campaign.status = CampaignStatus.ACTIVE
        session.flush()
        audit.record(session, who.user_id, "campaign.reopen", campaign_id, now, name=campaign.name)
    return _operator_views(session, [campaign])[0]


def _require_checkpoints(session: Session, ids: Sequence[UUID], strategy: Strategy) -> None:
    known = gallery_queries.existing_checkpoints(session, ids)
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise _wrong_checkpoints(f"There is no checkpoint {unknown[0]}.")
    if len(set(ids)) < len(ids):
        raise _wrong_checkpoints("A checkpoint is named twice; name each once.")
    if strategy is not Strategy.TOURNAMENT:
        if sum(checkpoint.n_samples for checkpoint in known.values()) < 2:
            raise _wrong_checkpoints("These checkpoints have fewer than two samples; draw some first (a sample job).")
        return
    if len(ids) < 2:
        raise _wrong_checkpoints("A tournament needs two checkpoints or more; the first is what the others must beat.")
    shared = labeling_queries.shared_noise_counts(session, ids[0], ids[1:])
    alone = [known[id].name for id in ids[1:] if id not in shared]
    if alone:
        raise _wrong_checkpoints(
            f"{', '.join(alone)} and {known[ids[0]].name} share no seeds; draw the same seeds with the same steps and "
            "eta of both first (a sample job each)."
        )


def _wrong_checkpoints(message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": "checkpoint_ids", "message": message}])


def _require(session: Session, campaign_id: UUID) -> Campaign:
    campaign = queries.get_campaign(session, campaign_id)
    if campaign is None:
        raise _no_such_campaign()
    return campaign


def _no_such_campaign() -> NotFoundError:
    return NotFoundError("There is no such campaign; GET /campaigns lists them.")


def _views(
    session: Session, campaigns: Sequence[Campaign], viewer: Principal
) -> Sequence[CampaignView | RaterCampaignView]:
    if viewer.role.covers(Role.OPERATOR):
        return _operator_views(session, campaigns)
    return [
        RaterCampaignView(
            id=campaign.id,
            name=campaign.name,
            question=campaign.question,
            guidelines=campaign.guidelines,
            open=campaign.open,
            status=campaign.status,
            votes=labeling_queries.votes_given(session, campaign.id, viewer.user_id),
            created_at=campaign.created_at,
        )
        for campaign in campaigns
    ]


def _operator_views(session: Session, campaigns: Sequence[Campaign]) -> list[CampaignView]:
    ids = [campaign.id for campaign in campaigns]
    votes = queries.vote_counts(session, ids)
    checkpoint_ids = queries.checkpoint_ids(session, ids)
    return [
        CampaignView(
            id=campaign.id,
            name=campaign.name,
            question=campaign.question,
            guidelines=campaign.guidelines,
            checkpoint_ids=checkpoint_ids[campaign.id],
            overlap=campaign.overlap,
            strategy=campaign.strategy,
            budget=campaign.budget,
            open=campaign.open,
            status=campaign.status,
            votes=votes.get(campaign.id, 0),
            n_leased=campaign.n_leased,
            created_by=campaign.created_by,
            created_at=campaign.created_at,
        )
        for campaign in campaigns
    ]

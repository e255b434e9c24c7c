"""The rating page. With a script it speaks to the API; without one it is a form that posts one vote at a time."""

from contextlib import suppress
from random import SystemRandom
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from app.db.queries import pages as queries
from app.domain.enums import CampaignStatus, Choice, Role
from app.domain.errors import GoneError
from app.domain.pairing import MAX_OPEN_LEASES
from app.services import examples, labeling, leasing
from app.web.deps import CurrentRater, CurrentSettings, Now, WriteSession
from app.web.templating import render

router = APIRouter(prefix="/rate")

_rng = SystemRandom()
Id = Annotated[UUID, Form()]


@router.get("/{campaign_id}")
def show_pair(
    request: Request,
    session: WriteSession,
    principal: CurrentRater,
    campaign_id: UUID,
    now: Now,
    settings: CurrentSettings,
    guidelines: bool = False,
    stop: bool = False,
) -> Response:
    campaign = labeling.get_campaign_for(session, campaign_id, principal)
    leased = []
    if campaign.status is CampaignStatus.ACTIVE:
        leased = leasing.lease_comparisons(
            session, campaign_id, rater=principal, n=1, now=now, lease_seconds=settings.lease_seconds, rng=_rng
        )
    return render(
        request,
        "rate/index.html",
        {
            "campaign": campaign,
            "is_active": campaign.status is CampaignStatus.ACTIVE,
            "comparison": leased[0] if leased else None,
            "n_mine": labeling.rater_progress(session, campaign_id, principal).votes,
            "n_votes": queries.votes_in(session, [campaign_id]).get(campaign_id, 0),
            "last_votes": queries.last_votes(session, campaign_id, principal.user_id, limit=2 * MAX_OPEN_LEASES),
            "show_guidelines": guidelines,
            "stopped": stop and bool(leased),
            "examples": examples.list_examples(session, campaign_id, principal),
            "is_operator": principal.role.covers(Role.OPERATOR),
        },
    )


@router.post("/{campaign_id}/vote")
def vote(
    session: WriteSession,
    principal: CurrentRater,
    campaign_id: UUID,
    comparison_id: Id,
    choice: Annotated[Choice, Form()],
    now: Now,
    settings: CurrentSettings,
) -> Response:
    with suppress(GoneError):  # the page was open for too long; the next one shows a pair that is this rater's again
        labeling.record_preference(
            session, comparison_id, rater=principal, choice=choice, now=now, undo_seconds=settings.undo_seconds
        )
    return RedirectResponse(f"/rate/{campaign_id}", status_code=303)


@router.post("/{campaign_id}/undo")
def undo(
    session: WriteSession,
    principal: CurrentRater,
    campaign_id: UUID,
    comparison_id: Id,
    now: Now,
    settings: CurrentSettings,
) -> Response:
    labeling.undo_preference(
        session,
        comparison_id,
        rater=principal,
        now=now,
        undo_seconds=settings.undo_seconds,
        lease_seconds=settings.lease_seconds,
    )
    return RedirectResponse(f"/rate/{campaign_id}", status_code=303)

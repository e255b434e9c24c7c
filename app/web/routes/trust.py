"""Pages on how far a campaign's votes can be trusted: one rater, gold pairs; the buttons that retract and retrain."""

from random import Random
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.db.models import Campaign
from app.db.queries import trust as queries
from app.domain.errors import TastemakerError
from app.services import campaigns, gallery, gold, retractions
from app.services.gallery import SampleView
from app.services.pair_selection import PairSource
from app.services.rater_pages import rater_health_view
from app.web.deps import (
    CurrentOperator,
    Now,
    ReadSession,
    ToSubmit,
    WriteSession,
)
from app.web.pages import SubmittedForm
from app.web.templating import render

router = APIRouter()

_PROPOSALS = 6


@router.get("/campaigns/{campaign_id}/raters/{rater_id}")
def show_rater(
    request: Request, session: ReadSession, operator: CurrentOperator, campaign_id: UUID, rater_id: UUID
) -> Response:
    rater = rater_health_view(session, campaign_id, rater_id)
    campaign = campaigns.get_campaign(session, campaign_id, operator)
    return render(request, "campaigns/rater.html", {"rater": rater, "campaign": campaign})


@router.post("/campaigns/{campaign_id}/raters/{rater_id}/retract")
def retract(
    session: WriteSession, operator: CurrentOperator, campaign_id: UUID, rater_id: UUID, form: SubmittedForm, now: Now
) -> Response:
    reason = str(form.get("reason") or "").strip()[:300]
    retractions.retract(session, operator, campaign_id, rater_id, reason=reason, now=now)
    return _to_rater(campaign_id, rater_id)


@router.post("/campaigns/{campaign_id}/raters/{rater_id}/reinstate")
def reinstate(
    session: WriteSession, operator: CurrentOperator, campaign_id: UUID, rater_id: UUID, now: Now
) -> Response:
    retractions.reinstate(session, operator, campaign_id, rater_id, now)
    return _to_rater(campaign_id, rater_id)


@router.post("/campaigns/{campaign_id}/raters/{rater_id}/retrain")
def retrain_affected(to: ToSubmit, campaign_id: UUID, rater_id: UUID) -> Response:
    retractions.retrain_affected(to, campaign_id, rater_id)
    return RedirectResponse("/jobs", status_code=303)


@router.post("/reward-models/{reward_model_id}/retrain")
def retrain_reward_model(to: ToSubmit, reward_model_id: UUID) -> Response:
    return RedirectResponse(f"/jobs/{retractions.retrain_reward_model(to, reward_model_id).id}", status_code=303)


@router.post("/checkpoints/{checkpoint_id}/retrain")
def retrain_checkpoint(to: ToSubmit, checkpoint_id: UUID) -> Response:
    return RedirectResponse(f"/jobs/{retractions.retrain_checkpoint(to, checkpoint_id).id}", status_code=303)


@router.get("/campaigns/{campaign_id}/gold")
def show_gold(request: Request, session: ReadSession, operator: CurrentOperator, campaign_id: UUID) -> Response:
    return _gold_page(request, session, operator, campaign_id)


@router.post("/campaigns/{campaign_id}/gold")
def mark_gold(
    request: Request,
    session: WriteSession,
    operator: CurrentOperator,
    campaign_id: UUID,
    form: SubmittedForm,
    now: Now,
) -> Response:
    try:
        better, worse = (UUID(str(form.get(name) or "")) for name in ("better", "worse"))
        gold.mark_gold(session, operator, campaign_id, better=better, worse=worse, now=now)
    except ValueError:
        return _gold_page(request, session, operator, campaign_id, refused="Choose one of the pairs shown.")
    except TastemakerError as error:
        return _gold_page(request, session, operator, campaign_id, refused=error.detail)
    return RedirectResponse(f"/campaigns/{campaign_id}/gold", status_code=303)


@router.post("/campaigns/{campaign_id}/gold/{pair_id}/retire")
def retire_gold(
    session: WriteSession, operator: CurrentOperator, campaign_id: UUID, pair_id: UUID, now: Now
) -> Response:
    gold.retire_gold(session, operator, campaign_id, pair_id, now)
    return RedirectResponse(f"/campaigns/{campaign_id}/gold", status_code=303)


def _gold_page(
    request: Request, session: Session, operator: CurrentOperator, campaign_id: UUID, *, refused: str | None = None
) -> Response:
    campaign = campaigns.get_campaign(session, campaign_id, operator)
    marked = gold.list_gold(session, campaign_id)
    known = {frozenset((pair.better_sample_id, pair.worse_sample_id)) for pair in marked}
    source = PairSource(session, session.get_one(Campaign, campaign_id), operator.user_id, Random())
    drawn = {frozenset(candidate.samples): candidate.samples for candidate in source.draw(2 * _PROPOSALS)}
    proposals = [pair for key, pair in drawn.items() if key not in known][:_PROPOSALS]
    ids = [id for pair in proposals for id in pair]
    ids += [id for pair in marked for id in (pair.better_sample_id, pair.worse_sample_id)]
    views = _samples(session, ids)
    context = {
        "campaign": campaign,
        "refused": refused,
        "proposals": [(views[first], views[second]) for first, second in proposals],
        "gold": [(pair, views[pair.better_sample_id], views[pair.worse_sample_id]) for pair in marked],
    }
    return render(request, "campaigns/gold.html", context, status=422 if refused else 200)


def _samples(session: Session, ids: list[UUID]) -> dict[UUID, SampleView]:
    rows = queries.samples_with_checkpoints(session, ids)
    return {view.id: view for view in gallery.views_of(session, list(rows.values()))}


def _to_rater(campaign_id: UUID, rater_id: UUID) -> Response:
    return RedirectResponse(f"/campaigns/{campaign_id}/raters/{rater_id}", status_code=303)

"""Campaigns for operators: ask a question, watch the votes come in, see what they say and how the raters do."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.queries import gallery as gallery_queries
from app.db.queries import pages as queries
from app.domain.enums import Strategy
from app.domain.errors import ConflictError, InvalidSpecError
from app.domain.estimates import MIN_CLUSTERS
from app.services import campaigns, checkpoints, examples, invitations
from app.services.accounts import Principal
from app.services.campaign_stats import campaign_stats
from app.services.marks import marks
from app.web.api.campaigns import CampaignChanges, CampaignIn
from app.web.deps import CurrentOperator, Now, ReadSession, WriteSession
from app.web.forms import Option
from app.web.pages import SubmittedForm
from app.web.pagination import After, encode_cursor
from app.web.templating import render

router = APIRouter(prefix="/campaigns")


@router.get("")
def list_campaigns(request: Request, session: ReadSession, operator: CurrentOperator, after: After) -> Response:
    found = campaigns.list_campaigns(session, operator, after=after, limit=30)
    cursor = encode_cursor(*found.end) if found.end else None
    return render(request, "campaigns/index.html", {"campaigns": found.items, "next_cursor": cursor})


@router.get("/new")
def empty_form(request: Request, session: ReadSession, _operator: CurrentOperator) -> Response:
    """Query parameters fill in: `?checkpoint_id=...&checkpoint_id=...&strategy=tournament`."""
    query = request.query_params
    values = {"checkpoint_ids": query.getlist("checkpoint_id"), "strategy": query.get("strategy", "uniform")}
    return _render_form(request, session, values)


@router.post("/new")
def create(
    request: Request, session: WriteSession, operator: CurrentOperator, form: SubmittedForm, now: Now
) -> Response:
    values: dict[str, Any] = {
        name: str(form.get(name) or "").strip() for name in ("name", "question", "guidelines", "strategy")
    }
    values |= {name: text for name in ("overlap", "budget") if (text := str(form.get(name) or "").strip())}
    values |= {
        "open": form.get("open") is not None,
        "checkpoint_ids": [str(id) for id in form.getlist("checkpoint_ids")],
    }
    try:
        asked = CampaignIn.model_validate(values)
        campaign = campaigns.create_campaign(session, **asked.model_dump(), creator=operator, now=now)
    except ValidationError as error:
        errors = {str(item["loc"][0]): _words(item["msg"]) for item in error.errors(include_url=False)}
        return _render_form(request, session, values, errors)
    except InvalidSpecError as error:
        return _render_form(request, session, values, {item["field"]: item["message"] for item in error.errors})
    return RedirectResponse(f"/campaigns/{campaign.id}", status_code=303)


@router.get("/{campaign_id}")
def show(request: Request, session: ReadSession, operator: CurrentOperator, campaign_id: UUID, now: Now) -> Response:
    return _render_campaign(request, session, operator, campaign_id, now)


@router.post("/{campaign_id}/settings")
def change(
    request: Request, session: WriteSession, operator: CurrentOperator, campaign_id: UUID, form: SubmittedForm, now: Now
) -> Response:
    values: dict[str, Any] = {name: str(form.get(name) or "").strip() for name in ("name", "budget", "guidelines")}
    values["open"] = form.get("open") is not None
    try:
        changes = CampaignChanges.model_validate(values | {"budget": values["budget"] or None}).model_dump()
        campaigns.change_campaign(session, operator, campaign_id, changes, now)
    except ValidationError as error:
        errors = {str(item["loc"][0]): _words(item["msg"]) for item in error.errors(include_url=False)}
        return _render_campaign(request, session, operator, campaign_id, now, values, errors)
    except ConflictError as error:
        return _render_campaign(request, session, operator, campaign_id, now, values, {"budget": str(error)})
    return RedirectResponse(f"/campaigns/{campaign_id}", status_code=303)


@router.post("/{campaign_id}/close")
def close(session: WriteSession, operator: CurrentOperator, campaign_id: UUID, now: Now) -> Response:
    campaigns.close_campaign(session, operator, campaign_id, now)
    return RedirectResponse(f"/campaigns/{campaign_id}", status_code=303)


@router.post("/{campaign_id}/reopen")
def reopen(session: WriteSession, operator: CurrentOperator, campaign_id: UUID, now: Now) -> Response:
    campaigns.reopen_campaign(session, operator, campaign_id, now)
    return RedirectResponse(f"/campaigns/{campaign_id}", status_code=303)


@router.post("/{campaign_id}/raters")
def add_rater(
    session: WriteSession, _operator: CurrentOperator, campaign_id: UUID, form: SubmittedForm, now: Now
) -> Response:
    name = str(form.get("name") or "").strip()
    campaigns.add_raters(session, campaign_id, token_names=[name], now=now)
    return RedirectResponse(f"/campaigns/{campaign_id}#raters", status_code=303)


def _render_campaign(
    request: Request,
    session: Session,
    operator: Principal,
    campaign_id: UUID,
    now: datetime,
    values: Mapping[str, Any] | None = None,
    errors: Mapping[str, str] | None = None,
) -> Response:
    """The campaign's page; `values` are what was typed into its settings, if they were refused."""
    campaign = campaigns.get_campaign(session, campaign_id, operator)
    known = gallery_queries.existing_checkpoints(session, campaign.checkpoint_ids)  # type: ignore[union-attr]
    return render(
        request,
        "campaigns/show.html",
        {
            "campaign": campaign,
            "stats": campaign_stats(session, campaign_id),
            "few_raters": MIN_CLUSTERS,
            "names": {id: row.name for id, row in known.items()},
            "members": campaigns.list_raters(session, campaign_id),
            "models": queries.reward_models(session, campaign_id=campaign_id),
            "marked": marks(session).reward_models,
            "invitations": invitations.list_invitations(session, campaign_id, now=now).items,
            "examples": examples.list_examples(session, campaign_id, operator),
            "values": values or vars(campaign),
            "errors": errors or {},
        },
        status=422 if errors else 200,
    )


def _render_form(
    request: Request, session: Session, values: Mapping[str, Any], errors: Mapping[str, str] | None = None
) -> Response:
    listed = checkpoints.list_checkpoints(session, limit=200).items
    return render(
        request,
        "campaigns/new.html",
        {
            "values": dict.fromkeys(CampaignIn.model_fields, "") | dict(values),
            "errors": errors or {},
            "checkpoints": [Option(str(row.id), f"{row.name} ({row.n_samples} samples)") for row in listed],
            "strategies": list(Strategy),
        },
        status=422 if errors else 200,
    )


def _words(message: str) -> str:
    """Pydantic's sentence, in words for a person who left a field empty."""
    if message == "String should have at least 1 character":
        return "This needs a few words."
    if message.startswith("List should have at least 1 item"):
        return "Choose at least one checkpoint."
    return message

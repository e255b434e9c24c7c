"""Campaigns over REST: open, list, change, add raters, close and open again, statistics, export."""

from collections.abc import Sequence
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from app.domain.documented import Documented
from app.domain.enums import Strategy
from app.services import campaigns, export, import_votes
from app.services.campaign_stats import CampaignStats, campaign_stats
from app.services.campaigns import CampaignView, MemberView, RaterCampaignView
from app.services.export import ExportFormat
from app.services.import_votes import ImportedVote, ImportReport
from app.web.api.problems import problems
from app.web.deps import (
    Blobs,
    CurrentOperator,
    CurrentPrincipal,
    CurrentSettings,
    Now,
    ReadSession,
    State,
    WriteSession,
)
from app.web.idempotency import ApiRoute
from app.web.pagination import After, Limit, Page

router = APIRouter(prefix="/campaigns", tags=["campaigns"], route_class=ApiRoute)

_MEDIA_TYPES: dict[ExportFormat, str] = {
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "datasets": "application/zip",
}


class CampaignIn(Documented):
    """What to ask, of whose samples, and how often."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=120, examples=["First taste"])
    question: str = Field(min_length=1, max_length=300, examples=["Which one do you like better?"])
    guidelines: str = Field(default="", max_length=20_000)
    """Markdown, shown to raters."""
    checkpoint_ids: list[UUID] = Field(min_length=1, max_length=32)
    """Whose samples are compared. In a tournament the first is what the others must beat."""
    overlap: int = Field(default=1, ge=1, le=100)
    """How many raters judge each pair."""
    strategy: Strategy = Strategy.UNIFORM
    """`uniform`: any two samples; `uncertainty`: pairs that the campaign's newest reward model is least sure of, and
    20 % random ones; `tournament`: two checkpoints' samples of the same noise."""
    budget: int | None = Field(default=None, ge=1, le=10_000_000)
    """Votes wanted in all, repeats included; empty has no end."""
    open: bool = False
    """Whether every rater may take part."""


class CampaignChanges(Documented):
    """What to change; a field that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"budget": 420}})

    name: str = Field(default="", min_length=1, max_length=120)
    guidelines: str = Field(default="", max_length=20_000)
    """Markdown, shown to raters."""
    budget: int | None = Field(default=None, ge=1, le=10_000_000)
    """Votes wanted in all, no fewer than were given; null has no end."""
    open: bool = False
    """Whether every rater may take part; otherwise those who were added."""


class RatersIn(BaseModel):
    """Who to add: users by id, or by the name of a token that they hold (or their own name)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"token_names": ["ada", "grace"]}})

    user_ids: list[UUID] = Field(default=[], max_length=1000)
    token_names: list[Annotated[str, Field(min_length=1, max_length=120)]] = Field(default=[], max_length=1000)

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not self.user_ids and not self.token_names:
            raise ValueError("name at least one rater, in user_ids or token_names")
        return self


class Raters(BaseModel):
    items: Sequence[MemberView]


@router.post("", status_code=201, summary="Put a question to raters")
def create_campaign(body: CampaignIn, session: WriteSession, operator: CurrentOperator, now: Now) -> CampaignView:
    return campaigns.create_campaign(session, **body.model_dump(), creator=operator, now=now)


@router.get("", summary="Campaigns, newest first; raters see those that they may take part in")
def list_campaigns(
    session: ReadSession, viewer: CurrentPrincipal, after: After, limit: Limit = 50
) -> Page[CampaignView | RaterCampaignView]:
    return Page.of(campaigns.list_campaigns(session, viewer, after=after, limit=limit))


@router.get("/{campaign_id}", summary="One campaign; raters do not see what would unblind", responses=problems(404))
def get_campaign(campaign_id: UUID, session: ReadSession, viewer: CurrentPrincipal) -> CampaignView | RaterCampaignView:
    return campaigns.get_campaign(session, campaign_id, viewer)


@router.patch("/{campaign_id}", summary="Change a campaign", responses=problems(404, 409))
def change_campaign(
    campaign_id: UUID, body: CampaignChanges, session: WriteSession, operator: CurrentOperator, now: Now
) -> CampaignView:
    """The question, the checkpoints and the strategy cannot be changed: the votes that were given answer them.

    A budget below the votes and open pairs that there are is refused (409).
    """
    return campaigns.change_campaign(session, operator, campaign_id, body.model_dump(exclude_unset=True), now)


@router.post("/{campaign_id}/raters", summary="Add raters", responses=problems(404))
def add_raters(
    campaign_id: UUID, body: RatersIn, session: WriteSession, _operator: CurrentOperator, now: Now
) -> Raters:
    members = campaigns.add_raters(session, campaign_id, user_ids=body.user_ids, token_names=body.token_names, now=now)
    return Raters(items=members)


@router.get("/{campaign_id}/raters", summary="The campaign's raters", responses=problems(404))
def list_raters(campaign_id: UUID, session: ReadSession, operator: CurrentOperator) -> Raters:
    campaigns.get_campaign(session, campaign_id, operator)
    return Raters(items=campaigns.list_raters(session, campaign_id))


@router.post("/{campaign_id}/close", summary="Take no more votes", responses=problems(404))
def close_campaign(campaign_id: UUID, session: WriteSession, operator: CurrentOperator, now: Now) -> CampaignView:
    return campaigns.close_campaign(session, operator, campaign_id, now)


@router.post("/{campaign_id}/reopen", summary="Take votes again", responses=problems(404))
def reopen_campaign(campaign_id: UUID, session: WriteSession, operator: CurrentOperator, now: Now) -> CampaignView:
    return campaigns.reopen_campaign(session, operator, campaign_id, now)


@router.get("/{campaign_id}/stats", summary="What the votes say about checkpoints and raters", responses=problems(404))
def get_stats(campaign_id: UUID, session: ReadSession, _operator: CurrentOperator) -> CampaignStats:
    return campaign_stats(session, campaign_id)


@router.get(
    "/{campaign_id}/export",
    summary="Every vote, to refit elsewhere",
    response_class=StreamingResponse,
    responses=problems(
        404,
        besides={
            200: {"description": "The file.", "content": {media_type: {} for media_type in _MEDIA_TYPES.values()}}
        },
    ),
)
def export_votes(
    campaign_id: UUID,
    session: ReadSession,
    state: State,
    settings: CurrentSettings,
    blobs: Blobs,
    _operator: CurrentOperator,
    format: Annotated[
        ExportFormat, Query(description="JSON lines, Parquet, or a zipped folder with images for `datasets`.")
    ] = "jsonl",
) -> StreamingResponse:
    export.require_exportable(session, campaign_id)
    suffix = "zip" if format == "datasets" else format
    return StreamingResponse(
        export.export_votes(state.database, settings, blobs, campaign_id, format),
        media_type=_MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="votes-{campaign_id}.{suffix}"'},
    )


async def _uploaded_votes(request: Request, _operator: CurrentOperator) -> list[ImportedVote]:
    return await run_in_threadpool(import_votes.read_rows, await request.body())


@router.post(
    "/{campaign_id}/import",
    summary="Votes from an export",
    responses=problems(404, 409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in ("application/octet-stream", *_MEDIA_TYPES.values())
            },
        }
    },
)
def import_exported_votes(
    campaign_id: UUID,
    votes: Annotated[list[ImportedVote], Depends(_uploaded_votes)],
    session: WriteSession,
    settings: CurrentSettings,
    operator: CurrentOperator,
    now: Now,
) -> ImportReport:
    """A file of any export format as the body, up to 20,000 votes a call: all of it is stored, or nothing.

    Votes that are here already are left alone. Samples must be among this campaign's, and are found by id or image.
    """
    return import_votes.import_votes(session, settings, operator, campaign_id, votes, now)

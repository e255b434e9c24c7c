"""What a campaign gives its raters beside the pairs: invitation links and example pairs, over REST."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.domain.documented import Documented
from app.domain.enums import Choice
from app.services import examples, invitations
from app.services.examples import ExampleView
from app.services.invitations import InvitationView, NewInvitationView
from app.services.labeling import Side
from app.web.api.problems import problems
from app.web.deps import (
    Blobs,
    CurrentOperator,
    CurrentRater,
    CurrentSettings,
    Now,
    ReadSession,
    WriteSession,
    external_url,
)
from app.web.idempotency import ApiRoute, answer_is_secret
from app.web.pagination import After, Limit, Page

router = APIRouter(prefix="/campaigns/{campaign_id}", tags=["campaigns"], route_class=ApiRoute)


class InvitationIn(Documented):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"label": "drawing class", "max_uses": 30}},
    )

    label: Annotated[str, StringConstraints(strip_whitespace=True, max_length=120)] = ""
    """Where the link is sent; only operators see it."""
    max_uses: int = Field(default=25, ge=1, le=10_000)
    """How many people may come by it."""
    expires_at: AwareDatetime | None = None
    """In two weeks, when left out; at most a year away."""


class NewInvitationOut(NewInvitationView):
    url: str = Field(examples=["https://taste.lab/i/Zk3v…"])


class ExampleIn(Documented):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "left_sample_id": "5f0c6c1e-0000-4000-8000-000000000001",
                "right_sample_id": "5f0c6c1e-0000-4000-8000-000000000002",
                "choice": "left",
                "note": "Warmer: the background is orange.",
            }
        },
    )

    left_sample_id: UUID
    right_sample_id: UUID
    choice: Choice
    """What a rater should answer here."""
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)] = ""
    """Why, in plain text."""


class Examples(BaseModel):
    items: Sequence[ExampleView]


@router.post(
    "/invitations",
    status_code=201,
    summary="Make an invitation link; its code is shown this once",
    responses=problems(404, 409),
    dependencies=[Depends(answer_is_secret)],
)
def create_invitation(
    campaign_id: UUID,
    body: InvitationIn,
    request: Request,
    session: WriteSession,
    caller: CurrentOperator,
    settings: CurrentSettings,
    now: Now,
) -> NewInvitationOut:
    """Whoever opens `url` picks a name and rates in this campaign; that browser reaches nothing else.

    A repeat with the same `Idempotency-Key` makes no second link, and is refused: the code was not kept.
    """
    made = invitations.create_invitation(session, caller, campaign_id, **body.model_dump(), now=now)
    return NewInvitationOut(**made.model_dump(), url=external_url(request, settings, f"/i/{made.code}"))


@router.get("/invitations", summary="Invitation links, newest first", responses=problems(404))
def list_invitations(
    campaign_id: UUID, session: ReadSession, _caller: CurrentOperator, now: Now, after: After, limit: Limit = 50
) -> Page[InvitationView]:
    return Page.of(invitations.list_invitations(session, campaign_id, now=now, after=after, limit=limit))


@router.delete(
    "/invitations/{invitation_id}", status_code=204, summary="Revoke an invitation link", responses=problems(404)
)
def revoke_invitation(
    campaign_id: UUID,
    invitation_id: UUID,
    session: WriteSession,
    caller: CurrentOperator,
    now: Now,
    sign_out: Annotated[bool, Query(description="Also sign out those who came by it.")] = False,
) -> None:
    """Nobody else comes in by it. Who has, stays a rater of the campaign, and their votes stay."""
    invitations.revoke_invitation(session, caller, campaign_id, invitation_id, now, sign_out=sign_out)


@router.post("/examples", status_code=201, summary="Show raters an example pair", responses=problems(404, 409))
def add_example(
    campaign_id: UUID, body: ExampleIn, session: WriteSession, caller: CurrentOperator, now: Now
) -> ExampleView:
    return examples.add_example(session, caller, campaign_id, **body.model_dump(), now=now)


@router.get("/examples", summary="The campaign's example pairs", responses=problems(404))
def list_examples(campaign_id: UUID, session: ReadSession, viewer: CurrentRater) -> Examples:
    """For its raters too; nothing here tells where an image comes from."""
    return Examples(items=examples.list_examples(session, campaign_id, viewer))


@router.delete("/examples/{example_id}", status_code=204, summary="Remove an example pair", responses=problems(404))
def remove_example(
    campaign_id: UUID, example_id: UUID, session: WriteSession, caller: CurrentOperator, now: Now
) -> None:
    examples.remove_example(session, caller, campaign_id, example_id, now)


@router.get(
    "/examples/{example_id}/{side}",
    summary="One image of an example pair, pixels only",
    response_class=Response,
    responses=problems(404, besides={200: {"description": "The image.", "content": {"image/png": {}}}}),
)
def get_example_image(
    campaign_id: UUID, example_id: UUID, side: Side, session: ReadSession, blobs: Blobs, viewer: CurrentRater
) -> Response:
    image = examples.example_image(session, blobs, campaign_id, example_id, side, viewer=viewer)
    return Response(image, media_type="image/png", headers={"Cache-Control": "no-store"})

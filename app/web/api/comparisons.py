"""Rating over REST: lease pairs, look at their images, vote, undo. Nothing here tells where an image comes from."""

from datetime import datetime
from random import Random
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.enums import Choice
from app.services import labeling, leasing
from app.services.labeling import Side
from app.services.leasing import ComparisonView
from app.web.api.problems import problems
from app.web.deps import Blobs, CurrentRater, CurrentSettings, LookupSession, Now, WriteSession
from app.web.idempotency import ApiRoute

router = APIRouter(tags=["comparisons"], route_class=ApiRoute)


def _rng() -> Random:
    return Random()


class ImageLink(BaseModel):
    image: str = Field(examples=["/api/v1/comparisons/2f4c…/left"])


class ComparisonOut(BaseModel):
    """A pair to be judged before `expires_at`."""

    id: UUID
    question: str
    left: ImageLink
    right: ImageLink
    expires_at: datetime

    @classmethod
    def of(cls, view: ComparisonView) -> "ComparisonOut":
        link = f"/api/v1/comparisons/{view.id}"
        return cls(
            id=view.id,
            question=view.question,
            left=ImageLink(image=f"{link}/left"),
            right=ImageLink(image=f"{link}/right"),
            expires_at=view.expires_at,
        )


class PreferenceIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"choice": "left", "response_ms": 2300}})

    choice: Choice
    response_ms: int | None = Field(
        default=None, ge=0, le=86_400_000, description="From shown to chosen; the first vote's counts."
    )


@router.post(
    "/campaigns/{campaign_id}/comparisons",
    summary="Lease the caller's next pairs",
    response_model=list[ComparisonOut],
    responses=problems(404, 409, besides={204: {"description": "No pair is left for this rater."}}),
)
def lease_comparisons(
    campaign_id: UUID,
    session: WriteSession,
    rater: CurrentRater,
    settings: CurrentSettings,
    now: Now,
    rng: Annotated[Random, Depends(_rng)],
    n: Annotated[int, Query(ge=1, le=20, description="How many pairs.")] = 1,
    holding: Annotated[
        list[UUID],
        Query(max_length=100, description="Pairs on screen: kept for the caller and not returned again."),
    ] = [],  # noqa: B006
) -> list[ComparisonOut] | Response:
    """First what the caller has leased and not voted on, then new pairs; each is reserved until `expires_at`."""
    leases = leasing.lease_comparisons(
        session,
        campaign_id,
        rater=rater,
        n=n,
        holding=frozenset(holding),
        now=now,
        lease_seconds=settings.lease_seconds,
        rng=rng,
    )
    return [ComparisonOut.of(lease) for lease in leases] if leases else Response(status_code=204)


@router.get(
    "/comparisons/{comparison_id}/{side}",
    summary="One image of a pair, pixels only",
    response_class=Response,
    responses=problems(404, besides={200: {"description": "The image.", "content": {"image/png": {}}}}),
)
def get_image(comparison_id: UUID, side: Side, session: LookupSession, blobs: Blobs, viewer: CurrentRater) -> Response:
    """For the rater who leased the pair, and for operators. It has no validators: an ETag would name the image."""
    image = labeling.comparison_image(session, blobs, comparison_id, side, viewer=viewer)
    return Response(image, media_type="image/png", headers={"Cache-Control": "no-store"})


@router.put(
    "/comparisons/{comparison_id}/preference",
    status_code=204,
    summary="Vote",
    responses=problems(404, 409, 410),
)
def record_preference(
    comparison_id: UUID,
    body: PreferenceIn,
    session: WriteSession,
    rater: CurrentRater,
    settings: CurrentSettings,
    now: Now,
) -> None:
    """The same vote again changes nothing; another choice replaces the first while undo is open.

    409 after that, and in a closed campaign. 410 when the lease has run out: leasing again gives the same pair, unless
    somebody else has it by now.
    """
    labeling.record_preference(
        session,
        comparison_id,
        rater=rater,
        choice=body.choice,
        response_ms=body.response_ms,
        now=now,
        undo_seconds=settings.undo_seconds,
    )


@router.delete(
    "/comparisons/{comparison_id}/preference",
    status_code=204,
    summary="Undo a vote; the pair waits for the same rater again",
    responses=problems(404, 409, 410),
)
def undo_preference(
    comparison_id: UUID, session: WriteSession, rater: CurrentRater, settings: CurrentSettings, now: Now
) -> None:
    labeling.undo_preference(
        session,
        comparison_id,
        rater=rater,
        now=now,
        undo_seconds=settings.undo_seconds,
        lease_seconds=settings.lease_seconds,
    )

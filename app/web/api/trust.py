"""Gold pairs and raters of a campaign over REST: mark, look, retract, undo, train anew."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.services import gold, retractions
from app.services.gold import GoldView
from app.services.job_views import JobView
from app.services.rater_pages import RaterHealthView, rater_health_view
from app.services.retractions import RetractionView
from app.web.api.problems import problems
from app.web.deps import CurrentOperator, Now, ReadSession, ToSubmit, WriteSession
from app.web.idempotency import ApiRoute

router = APIRouter(tags=["trust in votes"], route_class=ApiRoute)

_SAMPLE = "5f0c6c1e-0000-4000-8000-000000000000"


class GoldIn(BaseModel):
    """Two samples of the campaign's checkpoints, of which one is better beyond doubt."""

    model_config = ConfigDict(extra="forbid")

    better_sample_id: UUID = Field(examples=[_SAMPLE])
    worse_sample_id: UUID = Field(examples=[_SAMPLE.replace("1e", "1f")])


class GoldPairs(BaseModel):
    items: Sequence[GoldView]


class RetractionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=300, examples=["answered by a script"])


class Jobs(BaseModel):
    items: Sequence[JobView]


@router.post("/campaigns/{campaign_id}/gold", status_code=201, summary="Mark a gold pair", responses=problems(404))
def mark_gold(campaign_id: UUID, body: GoldIn, session: WriteSession, operator: CurrentOperator, now: Now) -> GoldView:
    """From now on every rater gets the pair once, among the others and like them. Marking again changes its answer."""
    return gold.mark_gold(
        session, operator, campaign_id, better=body.better_sample_id, worse=body.worse_sample_id, now=now
    )


@router.get("/campaigns/{campaign_id}/gold", summary="Gold pairs and how they were answered", responses=problems(404))
def list_gold(campaign_id: UUID, session: ReadSession, _operator: CurrentOperator) -> GoldPairs:
    return GoldPairs(items=gold.list_gold(session, campaign_id))


@router.delete(
    "/campaigns/{campaign_id}/gold/{pair_id}",
    status_code=204,
    summary="Show a gold pair no more",
    responses=problems(404),
)
def retire_gold(campaign_id: UUID, pair_id: UUID, session: WriteSession, operator: CurrentOperator, now: Now) -> None:
    """Answers that were given still count."""
    gold.retire_gold(session, operator, campaign_id, pair_id, now)


@router.get(
    "/campaigns/{campaign_id}/raters/{rater_id}",
    summary="One rater's health, and what was learned from their votes",
    responses=problems(404),
)
def get_rater(campaign_id: UUID, rater_id: UUID, session: ReadSession, _operator: CurrentOperator) -> RaterHealthView:
    return rater_health_view(session, campaign_id, rater_id)


@router.put(
    "/campaigns/{campaign_id}/raters/{rater_id}/retraction",
    summary="Retract a rater",
    responses=problems(404),
)
def retract(
    campaign_id: UUID, rater_id: UUID, body: RetractionIn, session: WriteSession, operator: CurrentOperator, now: Now
) -> RetractionView:
    """Their votes leave the statistics and every future label snapshot; what was learned from them is marked.

    Nothing is deleted, and they get no further pairs. Retracting again changes nothing.
    """
    return retractions.retract(session, operator, campaign_id, rater_id, reason=body.reason, now=now)


@router.delete(
    "/campaigns/{campaign_id}/raters/{rater_id}/retraction",
    summary="Undo a retraction",
    responses=problems(404),
)
def reinstate(
    campaign_id: UUID, rater_id: UUID, session: WriteSession, operator: CurrentOperator, now: Now
) -> RetractionView:
    return retractions.reinstate(session, operator, campaign_id, rater_id, now)


@router.post(
    "/campaigns/{campaign_id}/raters/{rater_id}/retrain",
    status_code=202,
    summary="Train anew what a retracted rater's votes taught",
    responses=problems(404, 409),
)
def retrain_affected(
    campaign_id: UUID,
    rater_id: UUID,
    to: ToSubmit,
) -> Jobs:
    """One `reward_model` job for each way in which an affected reward model was trained."""
    return Jobs(items=retractions.retrain_affected(to, campaign_id, rater_id))


@router.post(
    "/reward-models/{reward_model_id}/retrain",
    status_code=202,
    summary="Train a reward model once more, on the votes that count now",
    responses=problems(404),
)
def retrain_reward_model(
    reward_model_id: UUID,
    to: ToSubmit,
    response: Response,
) -> JobView:
    job = retractions.retrain_reward_model(to, reward_model_id)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job


@router.post(
    "/checkpoints/{checkpoint_id}/retrain",
    status_code=202,
    summary="Finetune once more, toward reward models that rest on no retracted votes",
    responses=problems(404, 409),
)
def retrain_checkpoint(
    checkpoint_id: UUID,
    to: ToSubmit,
    response: Response,
) -> JobView:
    """409 while the reward model behind it has no successor without retracted votes: retrain that first."""
    job = retractions.retrain_checkpoint(to, checkpoint_id)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job

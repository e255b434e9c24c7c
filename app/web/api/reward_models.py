"""Reward models over REST."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.services import reward_models
from app.services.reward_models import RewardModelView
from app.web.api.problems import problems
from app.web.deps import CurrentOperator, ReadSession, ToSubmit
from app.web.idempotency import ApiRoute
from app.web.pagination import After, Limit, Page

router = APIRouter(prefix="/reward-models", tags=["reward models"], route_class=ApiRoute)


class SamplesIn(BaseModel):
    """Which samples to score. Images that are not samples cannot be scored over REST yet."""

    model_config = ConfigDict(extra="forbid")

    sample_ids: list[UUID] = Field(min_length=1, max_length=1000, examples=[["5f0c6c1e-0000-4000-8000-000000000000"]])


class Rewards(BaseModel):
    """Rewards by sample id. `job_id` computes those that are missing (the call answered 202); null where none is."""

    reward_model_id: UUID
    rewards: dict[UUID, float]
    job_id: UUID | None


@router.get("", summary="Reward models, newest first")
def list_reward_models(
    session: ReadSession,
    _operator: CurrentOperator,
    after: After,
    campaign_id: Annotated[UUID | None, Query(description="Only those trained on this campaign's votes.")] = None,
    limit: Limit = 50,
) -> Page[RewardModelView]:
    return Page.of(reward_models.list_reward_models(session, campaign_id=campaign_id, after=after, limit=limit))


@router.get("/{reward_model_id}", summary="One reward model, with its measured quality", responses=problems(404))
def get_reward_model(reward_model_id: UUID, session: ReadSession, _operator: CurrentOperator) -> RewardModelView:
    return reward_models.get_reward_model(session, reward_model_id)


@router.post(
    "/{reward_model_id}/rewards",
    summary="The rewards of samples",
    responses=problems(
        404,
        besides={202: {"model": Rewards, "description": "Some are not known yet; the job in `Location` computes them"}},
    ),
)
def score_samples(
    reward_model_id: UUID,
    body: SamplesIn,
    to: ToSubmit,
    response: Response,
) -> Rewards:
    """Answers 200 when all are known. Otherwise 202: an `evaluate` job was queued; ask again when it has succeeded."""
    scored = reward_models.rewards_of_samples(to, reward_model_id, body.sample_ids)
    if scored.job is not None:
        response.status_code = 202
        response.headers["Location"] = f"/api/v1/jobs/{scored.job.id}"
    return Rewards(
        reward_model_id=reward_model_id,
        rewards=scored.rewards,
        job_id=None if scored.job is None else scored.job.id,
    )

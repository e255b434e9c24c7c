"""What can be optimised here, and the reward models that were learned: how good they are and what they like."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.db.queries import pages as queries
from app.domain.rewards import PREFERENCE
from app.services import campaigns, gallery, reward_models, rewards
from app.services.gallery import SampleView
from app.web.deps import CurrentOperator, ReadSession
from app.web.pagination import After, encode_cursor
from app.web.templating import render

router = APIRouter()

_BEST_AND_WORST = 12


@router.get("/rewards")
def list_rewards(request: Request, session: ReadSession, _operator: CurrentOperator, after: After) -> Response:
    models = reward_models.list_reward_models(session, after=after, limit=30)
    return render(
        request,
        "rewards/index.html",
        {
            "rewards": [reward for reward in rewards.list_rewards(session) if reward.name != PREFERENCE],
            "models": models.items,
            "next_cursor": encode_cursor(*models.end) if models.end else None,
        },
    )


@router.get("/reward-models/{reward_model_id}")
def show(request: Request, session: ReadSession, operator: CurrentOperator, reward_model_id: UUID) -> Response:
    model = reward_models.get_reward_model(session, reward_model_id)
    campaign = campaigns.get_campaign(session, model.campaign_id, operator)
    key = f"{PREFERENCE}:{model.id}"
    ranked: dict[str, list[tuple[SampleView, float]]] = {}
    for title, best in (("It likes best", True), ("It likes least", False)):
        found = queries.samples_by_reward(session, key, best=best, limit=_BEST_AND_WORST)
        views = gallery.views_of(session, [row for row, _ in found])
        ranked[title] = [(view, value) for view, (_, value) in zip(views, found, strict=True)]
    return render(
        request,
        "rewards/show.html",
        {
            "model": model,
            "campaign": campaign,
            "key": key,
            "ranked": ranked,
        },
    )

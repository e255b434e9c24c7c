"""/rewards: what can be optimised here."""

from fastapi import APIRouter

from app.db.queries.keyset import Slice
from app.services import rewards
from app.services.rewards import RewardView
from app.web.deps import CurrentOperator, ReadSession
from app.web.idempotency import ApiRoute
from app.web.pagination import Page

router = APIRouter(prefix="/rewards", tags=["rewards"], route_class=ApiRoute)


@router.get("", summary="The rewards and whether they can run here")
def list_rewards(session: ReadSession, _caller: CurrentOperator) -> Page[RewardView]:
    """Built-in rewards, then what workers have added, all on one page. `can_run` is null until a worker reported."""
    return Page.of(Slice(rewards.list_rewards(session), None))

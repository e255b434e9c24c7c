"""What can be optimised here: the built-in rewards, and what the workers last reported about these and others."""

from datetime import datetime

from sqlalchemy.orm import Session

from app.db.queries import job_lists as queries
from app.domain.rewards import BUILT_IN_REWARDS, RewardDescription

_NOT_REPORTED = "No worker has reported yet; start one with `tastemaker worker`."


class RewardView(RewardDescription):
    """A reward and whether it can run here."""

    can_run: bool | None
    """Empty until a worker has reported."""
    why_not: str | None
    reported_at: datetime | None


def list_rewards(session: Session) -> list[RewardView]:
    """Built-in ones first, then what workers have added."""
    reported = {
        name: RewardView.model_validate({**info, "name": name, "reported_at": when})
        for name, info, when in queries.reported_rewards(session)
    }
    built_in = [
        reported.pop(info.name)
        if info.name in reported
        else RewardView(**info.model_dump(), can_run=None, why_not=_NOT_REPORTED, reported_at=None)
        for info in BUILT_IN_REWARDS
    ]
    return [*built_in, *reported.values()]

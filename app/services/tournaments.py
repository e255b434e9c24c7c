"""Blind tournaments that settle a doubt: is what an alarm speaks against really worse in people's eyes?"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import checkpoints as checkpoint_queries
from app.domain.enums import Strategy
from app.domain.errors import ConflictError
from app.services.accounts import Principal
from app.services.alarms import alarms_of
from app.services.campaigns import CampaignView, create_campaign
from app.services.job_views import JobView

_MOST_DOUBTFUL = 3
_VOTES_A_PAIR = 50
_QUESTION = "Which one do you like better?"


def of_doubtful(session: Session, who: Principal, job: JobView, now: datetime) -> CampaignView:
    """A tournament of the base, the last good epoch and the epochs with alarms, on their shared seeds.

    Raises:
        ConflictError: the run has no alarm with a saved epoch.
        InvalidSpecError: the checkpoints share no seeds.
    """
    alarms = alarms_of(session, job)
    doubtful = [alarm.checkpoint_id for alarm in alarms if alarm.checkpoint_id is not None][-_MOST_DOUBTFUL:]
    if not doubtful:
        raise ConflictError("This run has no alarm at a saved epoch, so there is nothing to be settled.")
    saved = {epoch: id for id, epoch in checkpoint_queries.epochs_by_checkpoint(session, job.id).items()}
    base = UUID(job.spec["checkpoint_id"])
    good = saved.get(alarms[0].last_good_epoch)
    checkpoint_ids = list(dict.fromkeys([base, *([good] if good else []), *doubtful]))
    return create_campaign(
        session,
        name=f"Doubt: {job.name}"[:120],
        question=_QUESTION,
        checkpoint_ids=checkpoint_ids,
        strategy=Strategy.TOURNAMENT,
        budget=_VOTES_A_PAIR * (len(checkpoint_ids) - 1),
        open=True,
        creator=who,
        now=now,
    )

"""Retracting a rater: their votes leave statistics and future snapshots, and what was learned from them is marked."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Job, Retraction, RewardModel, User
from app.db.queries import campaigns as campaign_queries
from app.db.queries import labeling as labeling_queries
from app.db.queries import trust as queries
from app.domain.enums import JobKind
from app.domain.errors import ConflictError, NotFoundError
from app.domain.rewards import PREFERENCE
from app.services import audit, submission
from app.services.accounts import Principal
from app.services.job_views import JobView
from app.services.marks import Marks, marks


@dataclass(frozen=True)
class AffectedModel:
    """A reward model with `votes` of the rater in its label snapshot."""

    id: UUID
    name: str
    votes: int


@dataclass(frozen=True)
class AffectedCheckpoint:
    """A checkpoint that was finetuned toward an affected reward model, or from one that was."""

    id: UUID
    name: str


@dataclass(frozen=True)
class RetractionView:
    """Where a rater stands in a campaign, and what was learned from their votes, newest reward models first."""

    rater_id: UUID
    retracted: bool
    reason: str
    retracted_at: datetime | None
    reward_models: list[AffectedModel]
    checkpoints: list[AffectedCheckpoint]


def standing_of(session: Session, campaign_id: UUID, rater_id: UUID) -> RetractionView:
    """Raises NotFoundError: there is no such campaign, or nobody of that id has part in it."""
    _require_rater(session, campaign_id, rater_id)
    row = queries.retractions(session, campaign_id).get(rater_id)
    votes = queries.trained_on(session, campaign_id, rater_id)
    return RetractionView(
        rater_id=rater_id,
        retracted=row is not None,
        reason=row.reason if row else "",
        retracted_at=row.retracted_at if row else None,
        reward_models=[AffectedModel(m.id, m.name, votes[m.id]) for m in queries.reward_models(session, votes)],
        checkpoints=[
            AffectedCheckpoint(row.id, row.name) for row in queries.checkpoints_taught_by(session, list(votes))
        ],
    )


def retract(
    session: Session, who: Principal, campaign_id: UUID, rater_id: UUID, *, reason: str, now: datetime
) -> RetractionView:
    """Let a rater's votes in a campaign count no more, from the next snapshot on. Nothing is deleted.

    Raises:
        NotFoundError: there is no such campaign, or nobody of that id has part in it.
    """
    labeling_queries.lock_campaign(session, campaign_id)
    _require_rater(session, campaign_id, rater_id)
    if rater_id not in queries.retractions(session, campaign_id):
        queries.retract(session, campaign_id, rater_id, reason=reason, by=who.user_id, now=now)
        audit.record(session, who.user_id, "rater.retract", campaign_id, now, rater=str(rater_id), reason=reason)
    return standing_of(session, campaign_id, rater_id)


def reinstate(session: Session, who: Principal, campaign_id: UUID, rater_id: UUID, now: datetime) -> RetractionView:
    """Undo a retraction: the votes count again, and what was learned from them is no longer marked.

    Raises:
        NotFoundError: there is no such campaign, or nobody of that id has part in it.
    """
    _require_rater(session, campaign_id, rater_id)
    row = session.get(Retraction, (campaign_id, rater_id))
    if row is not None:
        session.delete(row)
        session.flush()
        audit.record(session, who.user_id, "rater.reinstate", campaign_id, now, rater=str(rater_id))
    return standing_of(session, campaign_id, rater_id)


def retrain_affected(to: submission.Submission, campaign_id: UUID, rater_id: UUID) -> list[JobView]:
    """Train anew what the rater's votes taught: one job for each way in which such a reward model was trained.

    Raises:
        NotFoundError: there is no such campaign, or nobody of that id has part in it.
        ConflictError: the rater is not retracted, or no reward model is affected.
    """
    standing = standing_of(to.session, campaign_id, rater_id)
    if not standing.retracted:
        raise ConflictError("This rater's votes count; retract them first.")
    models = queries.reward_models(to.session, [model.id for model in standing.reward_models])
    by_spec = {repr(sorted(_job_of(to.session, model).spec.items())): model for model in reversed(models)}
    if not by_spec:
        raise ConflictError("No reward model was trained on this rater's votes.")
    return [retrain_reward_model(to, model.id) for model in by_spec.values()]


def retrain_reward_model(to: submission.Submission, reward_model_id: UUID) -> JobView:
    """The job that trained a reward model once more, on the votes that count now.

    Raises:
        NotFoundError: there is no such reward model.
        InvalidSpecError: no votes are left.
    """
    model = to.session.get(RewardModel, reward_model_id)
    if model is None:
        raise NotFoundError(f"There is no reward model {reward_model_id}; GET /api/v1/reward-models lists them.")
    return submission.submit(to, JobKind.REWARD_MODEL, _job_of(to.session, model).spec, name=model.name)


def retrain_checkpoint(to: submission.Submission, checkpoint_id: UUID) -> JobView:
    """The finetune that made a checkpoint once more, toward reward models that rest on no retracted votes.

    Raises:
        NotFoundError: there is no such checkpoint.
        ConflictError: it is not affected, or what it was made from is and has not been trained anew.
    """
    checkpoint = to.session.get(Checkpoint, checkpoint_id)
    if checkpoint is None:
        raise NotFoundError(f"There is no checkpoint {checkpoint_id}; GET /api/v1/checkpoints lists them.")
    marked = marks(to.session)
    if checkpoint_id not in marked.checkpoints or checkpoint.job_id is None:
        raise ConflictError(f"{checkpoint.name} rests on no retracted votes; there is nothing to mend.")
    if checkpoint.parent_id in marked.checkpoints:
        raise ConflictError(
            f"What {checkpoint.name} was finetuned from rests on retracted votes too; retrain that first, then "
            "finetune from the result."
        )
    spec = dict(to.session.get_one(Job, checkpoint.job_id).spec)
    spec["reward"] = [_clean_term(to.session, term, marked) for term in spec["reward"]]
    return submission.submit(to, JobKind.FINETUNE, spec)


def _clean_term(session: Session, term: dict[str, object], marked: Marks) -> dict[str, object]:
    """The reward term with a marked reward model replaced by its successor."""
    if term.get("name") != PREFERENCE or UUID(str(term["reward_model_id"])) not in marked.reward_models:
        return term
    model = session.get_one(RewardModel, UUID(str(term["reward_model_id"])))
    successor = queries.newest_successor(session, model, but=marked.reward_models)
    if successor is None:
        raise ConflictError(f"The reward model {model.name} rests on retracted votes; retrain it first.")
    return term | {"reward_model_id": str(successor.id)}


def _job_of(session: Session, model: RewardModel) -> Job:
    return session.get_one(Job, model.job_id)


def _require_rater(session: Session, campaign_id: UUID, rater_id: UUID) -> User:
    campaign = campaign_queries.get_campaign(session, campaign_id)
    user = session.get(User, rater_id)
    if campaign is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    if user is None or not (
        campaign.open
        or campaign_queries.is_member(session, campaign_id, rater_id)
        or labeling_queries.votes_given(session, campaign_id, rater_id)
    ):
        raise NotFoundError(
            "Nobody of this id takes part in this campaign; GET /campaigns/{id}/stats lists the raters."
        )
    return user

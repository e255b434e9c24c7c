"""Reward models: list them, see how good they are, ask them about samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import RewardModel, Sample
from app.db.queries import learning, samples, trust
from app.db.queries import reward_models as queries
from app.db.queries.keyset import Position, Slice
from app.domain.enums import JobKind
from app.domain.errors import InvalidSpecError, NotFoundError
from app.domain.rewards import PREFERENCE
from app.services import submission
from app.services.job_views import JobView


@dataclass(frozen=True)
class RewardModelView:
    """A reward model. `accuracy` is on held-out pairs that share no image with training, with its 95 % interval;
    `human_ceiling` is how often raters agree with each other or themselves; `ece` is the expected calibration error;
    `retracted_votes` is how many of its labels were retracted since: train it anew where that is not 0."""

    id: UUID
    name: str
    job_id: UUID
    campaign_id: UUID
    snapshot_id: UUID
    snapshot_sha256: str
    n_labels: int
    encoder: str
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    human_ceiling: float | None
    ece: float | None
    retracted_votes: int
    report: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Scored:
    """Rewards by sample id; `job` is what computes the missing ones, None where none is missing."""

    rewards: dict[UUID, float]
    job: JobView | None


def list_reward_models(
    session: Session, *, campaign_id: UUID | None = None, after: Position | None = None, limit: int = 50
) -> Slice[RewardModelView]:
    """Newest first."""
    found = queries.reward_models(session, campaign_id=campaign_id, after=after, limit=limit)
    return Slice(_views(session, found.items), found.end)


def get_reward_model(session: Session, reward_model_id: UUID) -> RewardModelView:
    """Raises NotFoundError."""
    return _views(session, [_require(session, reward_model_id)])[0]


def rewards_of_samples(to: submission.Submission, reward_model_id: UUID, sample_ids: Sequence[UUID]) -> Scored:
    """What the model says about these samples. What it has not seen yet is put into one `evaluate` job.

    The web process holds no encoder. A job scores a range of seeds drawn with one number of steps and one eta, so
    samples that are not scored yet must share these; seeds in between are drawn and scored as well.

    Raises:
        NotFoundError: there is no such reward model.
        InvalidSpecError: a sample is unknown, or those that are not scored yet do not fit into one job.
    """
    _require(to.session, reward_model_id)
    known = queries.samples_by_id(to.session, sample_ids)
    unknown = [id for id in sample_ids if id not in known]
    if unknown:
        raise _wrong_samples(f"There is no sample {unknown[0]}.")
    rewards = samples.rewards_of(to.session, set(sample_ids), f"{PREFERENCE}:{reward_model_id}")
    missing = [known[id] for id in dict.fromkeys(sample_ids) if id not in rewards]
    if not missing:
        return Scored(rewards, None)
    return Scored(rewards, submission.submit(to, JobKind.EVALUATE, _evaluation(missing, reward_model_id)))


def _evaluation(missing: Sequence[Sample], reward_model_id: UUID) -> dict[str, Any]:
    recipes = {(sample.steps, sample.eta) for sample in missing}
    if len(recipes) > 1 or any(sample.guidance_key for sample in missing):
        raise _wrong_samples(
            "The samples without a reward from this model were drawn with different steps, eta or guidance; ask for "
            "them in groups that were drawn alike, without guidance."
        )
    ((steps, eta),) = recipes
    seeds = [sample.seed for sample in missing]
    return {
        "checkpoint_ids": list(dict.fromkeys(str(sample.checkpoint_id) for sample in missing)),
        "rewards": [{"name": PREFERENCE, "reward_model_id": str(reward_model_id)}],
        "seed": min(seeds),
        "n": max(2, max(seeds) - min(seeds) + 1),
        "steps": steps,
        "eta": eta,
    }


def _wrong_samples(message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": "sample_ids", "message": message}])


def _require(session: Session, reward_model_id: UUID) -> RewardModel:
    model = learning.get_reward_model(session, reward_model_id)
    if model is None:
        raise NotFoundError(f"There is no reward model {reward_model_id}; GET /api/v1/reward-models lists them.")
    return model


def _views(session: Session, models: Sequence[RewardModel]) -> list[RewardModelView]:
    hashes = queries.snapshot_hashes(session, [model.snapshot_id for model in models])
    retracted = trust.retracted_votes(session)
    return [
        RewardModelView(
            id=model.id,
            name=model.name,
            job_id=model.job_id,
            campaign_id=model.campaign_id,
            snapshot_id=model.snapshot_id,
            snapshot_sha256=hashes[model.snapshot_id],
            n_labels=model.n_labels,
            encoder=model.encoder,
            accuracy=model.accuracy,
            accuracy_interval=_interval(model.accuracy_low, model.accuracy_high),
            human_ceiling=model.human_ceiling,
            ece=model.ece,
            retracted_votes=retracted.get(model.id, 0),
            report=model.report,
            created_at=model.created_at,
        )
        for model in models
    ]


def _interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)

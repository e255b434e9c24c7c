"""Rewards as jobs use them: built from a spec's terms, learned ones loaded from their blobs, results stored by name."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import numpy as np
from jaxtyping import Float
from sqlalchemy.orm import Session

from app.db.models import Sample
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import learning as learning_queries
from app.db.queries import samples as sample_queries
from app.domain.errors import JobError
from app.domain.specs import RewardTerm
from worker.jobs.context import JobContext
from worker.ml.encoders import load_encoder
from worker.ml.preference import PreferenceReward, RewardHead
from worker.ml.rewards import Reward, RewardHost, build_reward


def reward_of(context: JobContext, terms: Sequence[RewardTerm]) -> Reward:
    """The weighted reward that `terms` describe."""
    host = RewardHost(context.settings.weights_dir, context.device, context.monitor.log)
    return build_reward(terms, preference=lambda id, k: _load_preference(context, id, k), host=host)


def rewards_by_key(context: JobContext, terms: Iterable[RewardTerm]) -> dict[str, Reward]:
    """Every term by itself and in its own unit, under the name that its values are stored under."""
    return {term.key: reward_of(context, [term.model_copy(update={"weight": 1.0})]) for term in terms}


def mean_and_error(values: Float[np.ndarray, " n"]) -> tuple[float, float, int]:
    """Mean, standard error of the mean (0 for a single value) and n."""
    sem = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(values.mean()), sem, len(values)


def record_evaluation(
    session: Session,
    checkpoint_id: UUID,
    samples: Sequence[Sample],
    rewards: Mapping[str, Float[np.ndarray, " n"]],
) -> None:
    """Store the rewards of the samples, in their order, and what they come to for the checkpoint."""
    for name, values in rewards.items():
        by_sample = {sample.id: float(value) for sample, value in zip(samples, values, strict=True)}
        sample_queries.record_rewards(session, name, by_sample)
    checkpoint_queries.record_measurements(
        session, checkpoint_id, {name: mean_and_error(values) for name, values in rewards.items()}
    )


def _load_preference(context: JobContext, reward_model_id: UUID, k: float) -> Reward:
    with context.database.reader() as session:
        model = learning_queries.get_reward_model(session, reward_model_id)
    if model is None:
        raise JobError(f"Reward model {reward_model_id} does not exist any more.")
    encoder = load_encoder(model.encoder, device=context.device, weights_dir=context.settings.weights_dir)
    return PreferenceReward(encoder, RewardHead.from_bytes(context.blobs.get(model.blob_sha256)), k=k)

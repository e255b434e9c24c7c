"""Handler of `evaluate`: rewards on the same fixed seeds for every checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app.db.models import Sample
from app.db.queries import samples as queries
from app.db.queries.samples import Recipe
from app.domain.errors import JobCancelledError
from app.domain.specs import EvaluateSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint
from worker.jobs.images import load_images
from worker.jobs.rewards import mean_and_error, record_evaluation, rewards_by_key
from worker.ml.rewards import Reward

_CHUNK = 64  # images that are decoded at once
_DRAWING = 0.8  # share of a checkpoint's progress that drawing stands for


def run(context: JobContext) -> Record:
    spec = EvaluateSpec.model_validate(context.job.spec)
    rewards = rewards_by_key(context, spec.rewards)
    seeds = range(spec.seed, spec.seed + spec.n)
    measured: dict[str, dict[str, Any]] = {}
    for position, checkpoint_id in enumerate(spec.checkpoint_ids):
        start = position / len(spec.checkpoint_ids)
        middle = start + _DRAWING / len(spec.checkpoint_ids)
        checkpoint = load_checkpoint(context, checkpoint_id)
        recipe = Recipe(checkpoint_id, spec.steps, spec.eta)
        draw_missing(context, checkpoint, recipe, seeds, fraction=(start, middle))
        context.monitor.progress(middle, stage=f"Measuring {checkpoint.name}")
        with context.database.reader() as session:
            by_seed = queries.samples_by_seed(session, recipe, seeds)
        samples = [by_seed[seed] for seed in seeds]
        values = _measure(context, samples, rewards)
        with context.fence.transaction() as session:
            record_evaluation(session, checkpoint_id, samples, values)
        measured[str(checkpoint_id)] = {
            name: dict(zip(("mean", "sem", "n"), mean_and_error(column), strict=True))
            for name, column in values.items()
        }

    def record(session: Session) -> dict[str, Any]:
        return {"rewards": measured}

    return record


def _measure(context: JobContext, samples: Sequence[Sample], rewards: Mapping[str, Reward]) -> dict[str, np.ndarray]:
    """Every reward of every sample, in the samples' order."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in rewards}
    for first in range(0, len(samples), _CHUNK):
        if context.monitor.should_stop():
            raise JobCancelledError("Cancelled; the samples that were drawn are kept.")
        images = load_images(context.blobs, [sample.sha256 for sample in samples[first : first + _CHUNK]])
        for name, reward in rewards.items():
            parts[name].append(reward(images))
    return {name: np.concatenate(columns) for name, columns in parts.items()}

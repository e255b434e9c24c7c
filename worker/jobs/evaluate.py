"""Handler of `evaluate`: rewards on the same fixed seeds for every checkpoint.

A part of an evaluation draws and scores its seeds and claims nothing of the checkpoint; the whole finds them scored.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

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
from worker.jobs.rewards import mean_and_error, record_evaluation, record_sample_rewards, rewards_by_key
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
        values = _measure(context, samples, rewards, parts_did_it=spec.shards > 1)
        with context.fence.transaction() as session:
            if context.job.parent_id is None:
                record_evaluation(session, checkpoint_id, samples, values)
            else:
                record_sample_rewards(session, samples, values)
        measured[str(checkpoint_id)] = {
            name: dict(zip(("mean", "sem", "n"), mean_and_error(column), strict=True))
            for name, column in values.items()
        }

    def record(session: Session) -> dict[str, Any]:
        return {"rewards": measured}

    return record


def _measure(
    context: JobContext, samples: Sequence[Sample], rewards: Mapping[str, Reward], *, parts_did_it: bool
) -> dict[str, np.ndarray]:
    """Every reward of every sample, in the samples' order; where parts have scored a sample, what they stored."""
    known: dict[str, dict[UUID, float]] = {name: {} for name in rewards}
    if parts_did_it:
        with context.database.reader() as session:
            known = {name: queries.rewards_of(session, [sample.id for sample in samples], name) for name in rewards}
    todo = [sample for sample in samples if any(sample.id not in values for values in known.values())]
    for first in range(0, len(todo), _CHUNK):
        if context.monitor.should_stop():
            raise JobCancelledError("Cancelled; the samples that were drawn are kept.")
        chunk = todo[first : first + _CHUNK]
        images = load_images(context.blobs, [sample.sha256 for sample in chunk])
        for name, reward in rewards.items():
            known[name] |= {sample.id: float(value) for sample, value in zip(chunk, reward(images), strict=True)}
    return {name: np.array([values[sample.id] for sample in samples]) for name, values in known.items()}

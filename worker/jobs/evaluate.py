"""Handler of `evaluate`: rewards on the same fixed seeds for every checkpoint.

A part of an evaluation draws and scores its seeds and claims nothing of the checkpoint; the whole finds them scored.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from app.db.models import Sample
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import samples as queries
from app.db.queries.samples import Recipe
from app.domain.errors import JobCancelledError
from app.domain.specs import EvaluateSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint
from worker.jobs.images import load_images
from worker.jobs.rewards import mean_and_error, rewards_by_key
from worker.ml.rewards import Reward

Values = dict[UUID, float]
"""One reward's values by sample id."""

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
        with context.database.reader() as session:
            by_seed = queries.samples_by_seed(session, recipe, seeds)
        samples = [by_seed[seed] for seed in seeds]
        known = _scored_by_parts(context, samples, rewards) if spec.shards > 1 else {}
        end = (position + 1) / len(spec.checkpoint_ids)
        fresh = _measure(context, checkpoint.name, samples, rewards, known, fraction=(middle, end))
        results: dict[str, tuple[float, float, int]] = {}
        for name in rewards:
            values = known.get(name, {}) | fresh[name]
            results[name] = mean_and_error(np.array([values[sample.id] for sample in samples]))
        with context.fence.transaction() as session:
            for name, values in fresh.items():
                queries.record_rewards(session, name, values)
            if context.job.parent_id is None:
                checkpoint_queries.record_measurements(session, checkpoint_id, results)
        measured[str(checkpoint_id)] = {
            name: dict(zip(("mean", "sem", "n"), result, strict=True)) for name, result in results.items()
        }

    def record(session: Session) -> dict[str, Any]:
        return {"rewards": measured}

    return record


def _scored_by_parts(context: JobContext, samples: Sequence[Sample], names: Iterable[str]) -> dict[str, Values]:
    ids = [sample.id for sample in samples]
    with context.database.reader() as session:
        return {name: queries.rewards_of(session, ids, name) for name in names}


def _measure(
    context: JobContext,
    what: str,
    samples: Sequence[Sample],
    rewards: Mapping[str, Reward],
    known: Mapping[str, Values],
    *,
    fraction: tuple[float, float],
) -> dict[str, Values]:
    """Every reward of the samples that are not `known` in all of them."""
    start, end = fraction
    todo = [sample for sample in samples if any(sample.id not in known.get(name, {}) for name in rewards)]
    found: dict[str, Values] = {name: {} for name in rewards}
    for first in range(0, len(todo), _CHUNK):
        if context.monitor.should_stop():
            raise JobCancelledError("Cancelled; the samples that were drawn are kept.")
        done = first / len(todo)
        context.monitor.progress(start + (end - start) * done, stage=f"Measuring {what}: {first} of {len(todo)}")
        chunk = todo[first : first + _CHUNK]
        images = load_images(context.blobs, [sample.sha256 for sample in chunk])
        for name, reward in rewards.items():
            found[name] |= {sample.id: float(value) for sample, value in zip(chunk, reward(images), strict=True)}
    return found

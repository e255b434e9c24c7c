"""Handler of `evaluate`: rewards on the same fixed seeds for every checkpoint.

A part of an evaluation draws and scores its seeds and hands its values over in a blob, so that nothing is seen of an
evaluation before all of it is there; the whole gathers them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np

from app.db.models import Sample
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import jobs as job_queries
from app.db.queries import samples as queries
from app.db.queries.samples import Recipe
from app.domain.enums import JobStatus
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
    by_parts = _values_of_parts(context, rewards) if spec.shards > 1 else {name: {} for name in rewards}
    measured: dict[str, dict[str, Any]] = {}
    handed_over: dict[str, dict[str, float]] = {name: {} for name in rewards}
    for position, checkpoint_id in enumerate(spec.checkpoint_ids):
        start = position / len(spec.checkpoint_ids)
        middle = start + _DRAWING / len(spec.checkpoint_ids)
        checkpoint = load_checkpoint(context, checkpoint_id)
        recipe = Recipe(checkpoint_id, spec.steps, spec.eta)
        draw_missing(context, checkpoint, recipe, seeds, fraction=(start, middle))
        with context.database.reader() as session:
            by_seed = queries.samples_by_seed(session, recipe, seeds)
        samples = [by_seed[seed] for seed in seeds]
        end = (position + 1) / len(spec.checkpoint_ids)
        fresh = _measure(context, checkpoint.name, samples, rewards, by_parts, fraction=(middle, end))
        values: dict[str, Values] = {}
        for name in rewards:
            known = by_parts[name] | fresh[name]
            values[name] = {sample.id: known[sample.id] for sample in samples}
        results = {name: mean_and_error(np.array(list(values[name].values()))) for name in rewards}
        if context.job.parent_id is None:
            with context.fence.transaction() as session:
                for name in rewards:
                    queries.record_rewards(session, name, values[name])
                checkpoint_queries.record_measurements(session, checkpoint_id, results)
        else:
            for name in rewards:
                handed_over[name] |= {str(id): value for id, value in values[name].items()}
        measured[str(checkpoint_id)] = {
            name: dict(zip(("mean", "sem", "n"), result, strict=True)) for name, result in results.items()
        }

    result: dict[str, Any] = {"rewards": measured}
    if context.job.parent_id is not None:
        result["values_sha256"] = context.blobs.put_json(handed_over)
    return lambda _: result


def _values_of_parts(context: JobContext, names: Iterable[str]) -> dict[str, Values]:
    """What the parts that succeeded have handed over."""
    with context.database.reader() as session:
        parts = job_queries.parts_of(session, context.job.id)
    found: dict[str, Values] = {name: {} for name in names}
    for part in parts:
        digest = part.result.get("values_sha256")
        if part.status is JobStatus.SUCCEEDED and digest is not None:
            for name, values in json.loads(context.blobs.get(digest)).items():
                found[name] |= {UUID(id): value for id, value in values.items()}
    return found


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

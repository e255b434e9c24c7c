"""Handler of `sample`: draw the seeds that were asked for, save those that exist already."""

from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app.db.queries import jobs as job_queries
from app.db.queries import samples as queries
from app.db.queries.samples import Recipe
from app.domain.specs import RewardTerm, SampleSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint
from worker.jobs.guide import guide_of
from worker.jobs.images import load_images
from worker.jobs.rewards import mean_and_error, reward_of

_CHUNK = 64  # images that are decoded at once


def run(context: JobContext) -> Record:
    spec = SampleSpec.model_validate(context.job.spec)
    checkpoint = load_checkpoint(context, spec.checkpoint_id)
    recipe = Recipe(checkpoint.id, spec.steps, spec.eta, spec.guidance.recipe if spec.guidance else None)
    seeds = range(spec.seed, spec.seed + spec.n)
    guide = guide_of(context, spec.guidance) if spec.guidance is not None else None
    drawn = draw_missing(context, checkpoint, recipe, seeds, guide=guide)

    measured: dict[str, Any] = {}
    if spec.guidance is not None and spec.guidance.reward and context.job.parent_id is None:
        measured = _reward_beside_unguided(context, spec)

    def record(session: Session) -> dict[str, Any]:
        by_parts = sum(part.result.get("drawn", 0) for part in job_queries.parts_of(session, context.job.id))
        n_drawn = drawn + by_parts
        return {"checkpoint_id": str(checkpoint.id), "sample_ids_count": spec.n, "drawn": n_drawn, **measured}

    return record


def _reward_beside_unguided(context: JobContext, spec: SampleSpec) -> dict[str, Any]:
    """The reward that guided, of the guided samples and of the unguided ones of the same seeds, where all exist."""
    assert spec.guidance is not None
    assert spec.guidance.reward is not None
    seeds = range(spec.seed, spec.seed + spec.n)
    term = RewardTerm(name=spec.guidance.reward, reward_model_id=spec.guidance.reward_model_id)
    reward = reward_of(context, [term])
    found: dict[str, Any] = {"name": term.key, "unguided": None}
    for part, guidance in (("unguided", None), ("guided", spec.guidance.recipe)):
        with context.database.reader() as session:
            by_seed = queries.samples_by_seed(
                session, Recipe(spec.checkpoint_id, spec.steps, spec.eta, guidance), seeds
            )
        if len(by_seed) < len(seeds):
            continue
        samples = [by_seed[seed] for seed in seeds]
        hashes = [sample.sha256 for sample in samples]
        values = np.concatenate(
            [reward(load_images(context.blobs, hashes[first : first + _CHUNK])) for first in range(0, spec.n, _CHUNK)]
        )
        with context.fence.transaction() as session:
            by_id = {sample.id: float(value) for sample, value in zip(samples, values, strict=True)}
            queries.record_rewards(session, term.key, by_id)
        found[part] = dict(zip(("mean", "sem", "n"), mean_and_error(values), strict=True))
    return {"reward": found}

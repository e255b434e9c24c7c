"""Handler of `sample`: draw the seeds that were asked for, save those that exist already."""

from typing import Any

from sqlalchemy.orm import Session

from app.db.queries.samples import Recipe
from app.domain.errors import JobError
from app.domain.specs import SampleSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint


def run(context: JobContext) -> Record:
    spec = SampleSpec.model_validate(context.job.spec)
    if spec.guidance is not None:
        raise JobError("Guided sampling needs an encoder with a text tower, and this worker has none; leave it out.")
    checkpoint = load_checkpoint(context, spec.checkpoint_id)
    recipe = Recipe(checkpoint.id, spec.steps, spec.eta)
    seeds = range(spec.seed, spec.seed + spec.n)
    drawn = draw_missing(context, checkpoint, recipe, seeds)

    def record(session: Session) -> dict[str, Any]:
        return {"checkpoint_id": str(checkpoint.id), "sample_ids_count": spec.n, "drawn": drawn}

    return record

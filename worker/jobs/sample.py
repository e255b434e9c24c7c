"""Handler of `sample`: draw the seeds that were asked for, save those that exist already."""

from typing import Any

from sqlalchemy.orm import Session

from app.db.queries.samples import Recipe
from app.domain.specs import SampleSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint


def run(context: JobContext) -> Record:
    spec = SampleSpec.model_validate(context.job.spec)
    checkpoint = load_checkpoint(context, spec.checkpoint_id)
    recipe = Recipe(
        checkpoint_id=checkpoint.id,
        steps=spec.steps,
        eta=spec.eta,
        guidance=spec.guidance.model_dump() if spec.guidance is not None else None,
    )
    seeds = range(spec.seed, spec.seed + spec.n)
    drawn = draw_missing(context, checkpoint, recipe, seeds)

    def record(session: Session) -> dict[str, Any]:
        return {"checkpoint_id": str(checkpoint.id), "sample_ids_count": spec.n, "drawn": drawn}

    return record

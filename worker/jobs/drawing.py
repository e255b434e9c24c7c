"""Drawing samples into the database: only those that do not exist yet, committed batch by batch."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from jaxtyping import UInt8
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.checkpoint_store import materialise
from app.db.models import Checkpoint, Sample
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import samples as queries
from app.db.queries.samples import DrawnImage, Recipe
from app.domain.enums import EventKind
from app.domain.errors import JobError
from worker.jobs.context import JobContext
from worker.jobs.images import encode_png
from worker.ml.cpu_form import to_cpu_form
from worker.ml.policy import Policy, load_policy
from worker.ml.rollout import Guidance, draw_samples


def load_checkpoint(context: JobContext, checkpoint_id: UUID) -> Checkpoint:
    with context.database.reader() as session:
        checkpoint = checkpoint_queries.get_checkpoint(session, checkpoint_id)
    if checkpoint is None:
        raise JobError(f"Checkpoint {checkpoint_id} does not exist any more.")
    return checkpoint


def open_policy(context: JobContext, checkpoint: Checkpoint) -> Policy:
    """Unpack a checkpoint's files, checking their hashes, and load them."""
    folder = materialise(context.blobs, checkpoint.manifest_sha256, context.settings.cache_dir)
    return load_policy(folder, device=context.device)


def open_for_drawing(context: JobContext, checkpoint: Checkpoint) -> Policy:
    """A policy that is neither trained on nor saved, in the form that a CPU evaluates fastest. Samples are those of
    `open_policy` but for rounding."""
    policy = open_policy(context, checkpoint)
    if policy.device.type == "cpu":
        to_cpu_form(policy.unet)
    return policy


def put_images(blobs: BlobStore, seeds: Sequence[int], images: UInt8[np.ndarray, "n h w 3"]) -> list[DrawnImage]:
    """Store the images as PNG blobs."""
    _, height, width, _ = images.shape
    return [
        DrawnImage(seed, blobs.put(encode_png(image)), width, height) for seed, image in zip(seeds, images, strict=True)
    ]


def record_samples(
    session: Session, context: JobContext, recipe: Recipe, images: Sequence[DrawnImage], **payload: Any
) -> list[Sample]:
    """Add the rows of `images` and tell the job's log, inside a transaction of the job's fence."""
    samples = queries.add_samples(session, recipe, images, job_id=context.job.id, now=context.clock.now())
    ids = [str(sample.id) for sample in samples]
    checkpoint_id = str(recipe.checkpoint_id)
    context.fence.event(session, EventKind.SAMPLES, {"checkpoint_id": checkpoint_id, "sample_ids": ids, **payload})
    return samples


def draw_missing(
    context: JobContext,
    checkpoint: Checkpoint,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    fraction: tuple[float, float] = (0.0, 1.0),
    guide: Callable[[Policy], Guidance] | None = None,
) -> int:
    """Draw the seeds that this recipe has no sample of. Returns how many there were.

    Args:
        guide: makes the guidance that `recipe` names.

    Raises:
        JobCancelledError: stopped on request; every finished batch is stored.
    """
    with context.database.reader() as session:
        known = queries.samples_by_seed(session, recipe, seeds)
    missing = [seed for seed in seeds if seed not in known]
    if not missing:
        return 0

    def store(batch: Sequence[int], images: UInt8[np.ndarray, "n h w 3"]) -> None:
        drawn = put_images(context.blobs, batch, images)
        with context.fence.transaction() as session:
            record_samples(session, context, recipe, drawn)

    start, end = fraction
    done_before = start + (end - start) * len(known) / len(seeds)
    context.monitor.progress(done_before, stage=f"Loading {checkpoint.name}")
    policy = open_for_drawing(context, checkpoint)
    draw_samples(
        policy,
        missing,
        steps=recipe.steps,
        eta=recipe.eta,
        monitor=context.monitor,
        batch_size=context.settings.sample_batch_size,
        guidance=guide(policy) if guide is not None else None,
        fraction=(done_before, end),
        on_batch=store,
    )
    return len(missing)

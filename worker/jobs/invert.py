"""The analysis `inversion`: an uploaded image, the noise it would have come from, and what the model makes of it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from app.db.models import Checkpoint
from app.db.queries import uploads as queries
from app.domain.errors import JobCancelledError, JobError
from app.domain.specs import AnalyzeSpec
from worker.jobs.context import JobContext
from worker.jobs.drawing import open_for_drawing
from worker.jobs.images import encode_png, load_image
from worker.ml.inversion import invert_skipping
from worker.ml.rollout import decode

_SHOWN_SIGMAS = 3.0
"""Noise is shown with black at minus and white at plus this many standard deviations; pixels clip at one."""

_RECONSTRUCTIONS = 6


def invert(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """The part of the document that belongs to this kind.

    Raises:
        JobError: the uploaded image is not there any more.
    """
    with context.database.reader() as session:
        upload = queries.get_upload(session, spec.image_id) if spec.image_id is not None else None
    if upload is None:
        raise JobError(f"The uploaded image {spec.image_id} does not exist any more; upload it again.")
    picture = load_image(context.blobs, upload.sha256)
    skips = sorted(set(spec.skips)) or spread_skips(spec.steps)
    inversions = []
    for position, checkpoint in enumerate(checkpoints):

        def between(done: int, total: int, position: int = position, name: str = checkpoint.name) -> None:
            if context.monitor.should_stop():
                raise JobCancelledError("Cancelled; an inversion keeps nothing on the way.")
            share = (position + done / total) / len(checkpoints)
            context.monitor.progress(share, stage=f"Inverting with {name}: {done} of {total} steps")

        policy = open_for_drawing(context, checkpoint)
        image = fit_square(picture, policy.image_size)
        found = invert_skipping(policy, image[None], steps=spec.steps, skips=skips, between=between)
        noise = found[0].latents[0].float().cpu()
        inversions.append(
            {
                "image": context.blobs.put(encode_png(image)),
                "noise": context.blobs.put(encode_png(decode(noise[None] / _SHOWN_SIGMAS)[0])),
                "noise_skip": skips[0],
                "noise_mean": float(noise.mean()),
                "noise_std": float(noise.std()),
                "results": [
                    {
                        "skip": skip,
                        "image": context.blobs.put(encode_png(each.reconstructions[0])),
                        "psnr": float(each.psnr[0]) if math.isfinite(each.psnr[0]) else None,
                    }
                    for skip, each in zip(skips, found, strict=True)
                ],
            }
        )
    return {"inversions": inversions}


def spread_skips(steps: int) -> list[int]:
    """From none to four fifths of the steps, evenly."""
    return sorted({round(float(skip)) for skip in np.linspace(0, 0.8 * steps, _RECONSTRUCTIONS)})


def fit_square(picture: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The largest square around the centre, resampled to `size` pixels."""
    image = Image.fromarray(picture)
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))

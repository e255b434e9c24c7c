"""Embeddings of stored images: computed once per encoder and image, kept in the database."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8

from app.db.queries import learning as queries
from app.domain.errors import JobCancelledError
from worker.jobs.context import JobContext
from worker.jobs.images import load_images
from worker.ml.encoders import Encoder

_CHUNK = 64  # images that are in memory, and embeddings that are committed, at once


def embedded_chunks(
    context: JobContext, encoder: Encoder, sha256s: list[str], *, fraction: tuple[float, float]
) -> Iterator[tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n d"]]]:
    """Images and their embeddings in the order of `sha256s`, some at a time; embeddings that are new are cached.

    Args:
        fraction: the share of the whole job that this covers, for progress.

    Raises:
        JobCancelledError: stopped on request; what was computed is kept.
    """
    with context.database.reader() as session:
        known = queries.cached_embeddings(session, encoder.name, sha256s)
    start, end = fraction
    for first in range(0, len(sha256s), _CHUNK):
        if context.monitor.should_stop():
            raise JobCancelledError("Cancelled; the embeddings that were computed are kept.")
        chunk = sha256s[first : first + _CHUNK]
        images = load_images(context.blobs, chunk)
        new = [row for row, sha256 in enumerate(chunk) if sha256 not in known]
        if new:
            vectors = encoder.encode(images[new]).astype("<f4")
            fresh = {chunk[row]: vector.tobytes() for row, vector in zip(new, vectors, strict=True)}
            with context.fence.transaction() as session:
                queries.cache_embeddings(session, encoder.name, fresh)
            known |= fresh
        yield images, np.stack([np.frombuffer(known[sha256], "<f4") for sha256 in chunk])
        done = first + len(chunk)
        context.monitor.progress(
            start + (end - start) * done / len(sha256s), stage=f"Embedding images: {done} of {len(sha256s)}"
        )

"""What frozen networks say of stored images: computed once per network and image, kept in the database."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from app.db.queries import learning as queries
from app.domain.errors import JobCancelledError
from worker.jobs.context import JobContext
from worker.jobs.images import load_images

_CHUNK = 64  # images that are in memory, and vectors that are committed, at once


def cached_chunks(
    context: JobContext,
    name: str,
    encode: Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]],
    sha256s: list[str],
    *,
    stage: str = "Embedding images",
    fraction: tuple[float, float],
) -> Iterator[tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n d"]]]:
    """Images and their fp32 vectors in the order of `sha256s`, some at a time; vectors that are new are kept.

    Args:
        name: of the network; the same name means the same vectors.
        encode: an encoder's `encode`, a classifier's `logits`.
        fraction: the share of the whole job that this covers, for progress.

    Raises:
        JobCancelledError: stopped on request; what was computed is kept.
    """
    with context.database.reader() as session:
        known = queries.cached_embeddings(session, name, sha256s)
    start, end = fraction
    for first in range(0, len(sha256s), _CHUNK):
        if context.monitor.should_stop():
            raise JobCancelledError("Cancelled; what was computed is kept.")
        chunk = sha256s[first : first + _CHUNK]
        images = load_images(context.blobs, chunk)
        new = [row for row, sha256 in enumerate(chunk) if sha256 not in known]
        if new:
            vectors = encode(images[new]).astype("<f4")
            fresh = {chunk[row]: vector.tobytes() for row, vector in zip(new, vectors, strict=True)}
            with context.fence.transaction() as session:
                queries.cache_embeddings(session, name, fresh)
            known |= fresh
        yield images, np.stack([np.frombuffer(known[sha256], "<f4") for sha256 in chunk])
        done = first + len(chunk)
        context.monitor.progress(
            start + (end - start) * done / len(sha256s), stage=f"{stage}: {done} of {len(sha256s)}"
        )

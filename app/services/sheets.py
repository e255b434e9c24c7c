"""Pictures made of several samples: one noise along its checkpoints, and sheets of one checkpoint (thesis, annexes)."""

from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.queries import evaluation as queries
from app.domain.errors import ConflictError
from app.services import gallery
from app.services.checkpoints import require_checkpoint
from app.services.exports_images import Format, animate, sheet


def transitions(
    session: Session, blobs: BlobStore, sample_id: UUID, *, format: Format, enlarge: int, frame_ms: int
) -> bytes:
    """What one noise became at every checkpoint of its line, in order; checkpoints that did not draw it are left out.

    Raises:
        NotFoundError: there is no such sample.
        InvalidSpecError: too many or too large images.
    """
    drawn = [step.sample for step in gallery.transitions(session, sample_id) if step.sample is not None]
    images = [blobs.get(sample.sha256) for sample in drawn]
    if format == "png":
        return sheet(images, columns=len(images) if len(images) <= 12 else None, enlarge=enlarge)
    return animate(images, format=format, frame_ms=frame_ms, last_ms=6 * frame_ms, enlarge=enlarge)


def sheet_of(
    session: Session, blobs: BlobStore, checkpoint_id: UUID, *, n: int, seed: int, columns: int | None, enlarge: int
) -> bytes:
    """`n` samples of a checkpoint in the order of their seeds, from `seed` on.

    Raises:
        NotFoundError: there is no such checkpoint.
        ConflictError: it has drawn nothing from there on.
        InvalidSpecError: too large images.
    """
    require_checkpoint(session, checkpoint_id)
    rows = queries.samples_from_seed(session, checkpoint_id, seed=seed, limit=n)
    if not rows:
        raise ConflictError(
            f"This checkpoint has drawn no sample from seed {seed} on; draw some, or choose a lower seed."
        )
    return sheet([blobs.get(row.sha256) for row in rows], columns=columns, enlarge=enlarge)

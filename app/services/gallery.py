"""Samples: browse them, follow one along its checkpoints, render its image."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Sample, SampleMark
from app.db.queries import gallery as queries
from app.db.queries.gallery import SampleFilter
from app.db.queries.keyset import Position, Slice, ValuePosition
from app.domain.documented import Documented
from app.domain.errors import CorruptDataError, NotFoundError
from app.domain.marks import Marks
from app.services import lineage
from app.services.checkpoints import require_checkpoint
from app.services.lineage import CheckpointRef

ImageFormat = Literal["png", "webp", "jpeg"]
THUMBNAIL_EDGE = 128
_JPEG_QUALITY = 92


class SampleLinks(BaseModel):
    image: str
    thumbnail: str
    transitions: str


class SampleView(Documented):
    """A sample with everything needed to draw it again, as the API and the pages show it."""

    id: UUID
    checkpoint_id: UUID
    job_id: UUID | None
    seed: int
    steps: int
    eta: float
    width: int
    height: int
    sha256: str
    """Hash of the stored PNG."""
    rewards: dict[str, float] = Field(examples=[{"jpeg_compressibility": -3.21}])
    """What was computed for it so far, by reward name; a learned one is `preference:<reward model's id>`."""
    starred: bool
    tags: list[str]
    note: str
    created_at: datetime
    links: SampleLinks


class Transition(BaseModel):
    """One stop on a sample's way: the checkpoint, and what it drew from the same noise, if that was drawn."""

    checkpoint: CheckpointRef
    sample: SampleView | None


def list_samples(
    session: Session,
    *,
    checkpoint_id: UUID | None = None,
    seed: int | None = None,
    tag: str | None = None,
    starred: bool = False,
    after: Position | None = None,
    limit: int = 50,
) -> Slice[SampleView]:
    """Newest first, without those of deleted checkpoints.

    Raises:
        NotFoundError: there is no such checkpoint.
    """
    if checkpoint_id is not None:
        require_checkpoint(session, checkpoint_id)
    wanted = SampleFilter(checkpoint_id=checkpoint_id, seed=seed, tag=tag, starred=starred)
    found = queries.samples(session, wanted, after=after, limit=limit)
    return Slice(views_of(session, found.items), found.end)


def list_by_reward(
    session: Session,
    wanted: SampleFilter,
    reward: str,
    *,
    highest: bool,
    after: ValuePosition | None = None,
    limit: int = 50,
) -> Slice[SampleView, ValuePosition]:
    """Those whose reward of this name is known, the highest or the lowest first.

    Raises:
        NotFoundError: there is no such checkpoint.
    """
    if wanted.checkpoint_id is not None:
        require_checkpoint(session, wanted.checkpoint_id)
    found = queries.samples_by_reward(session, wanted, reward, highest=highest, after=after, limit=limit)
    return Slice(views_of(session, found.items), found.end)


def mark_sample(session: Session, sample_id: UUID, marks: Marks, now: datetime) -> SampleView:
    """Star, tag or note a sample; marks are everybody's.

    Raises:
        NotFoundError: there is no such sample.
    """
    row = require_sample(session, sample_id)
    mark = session.get(SampleMark, sample_id)
    if mark is None:
        mark = SampleMark(sample_id=sample_id, starred=False, note="", tags=[], updated_at=now)
        session.add(mark)
    for name, value in marks.model_dump(exclude_none=True).items():
        setattr(mark, name, value)
    mark.updated_at = now
    session.flush()
    return views_of(session, [row])[0]


def get_sample(session: Session, sample_id: UUID) -> SampleView:
    """Raises NotFoundError."""
    return views_of(session, [require_sample(session, sample_id)])[0]


def require_sample(session: Session, sample_id: UUID) -> Sample:
    """Raises NotFoundError."""
    row = session.get(Sample, sample_id)
    if row is None:
        raise NotFoundError(f"There is no sample {sample_id}; GET /api/v1/samples lists them.")
    return row


def first_samples(
    session: Session, checkpoint_ids: Sequence[UUID], *, per_checkpoint: int = 4
) -> dict[UUID, list[SampleView]]:
    """The first few samples of each checkpoint, for cards."""
    rows = queries.first_samples(session, checkpoint_ids, per_checkpoint=per_checkpoint)
    found: dict[UUID, list[SampleView]] = {id: [] for id in checkpoint_ids}
    for view in views_of(session, rows):
        found[view.checkpoint_id].append(view)
    return found


def transitions(session: Session, sample_id: UUID) -> list[Transition]:
    """What the noise of this sample became at every checkpoint of its line: the base, then every saved epoch.

    Checkpoints that never drew this noise are in the list without a sample. See `lineage.line_of` for the line.

    Raises:
        NotFoundError: there is no such sample.
    """
    sample = require_sample(session, sample_id)
    line = lineage.line_of(session, require_checkpoint(session, sample.checkpoint_id))
    drawn = queries.samples_drawn_alike(session, sample, [row.id for row in line])
    views = {view.checkpoint_id: view for view in views_of(session, list(drawn.values()))}
    return [Transition(checkpoint=lineage.ref_of(row), sample=views.get(row.id)) for row in line]


def views_of(session: Session, rows: Sequence[Sample]) -> list[SampleView]:
    ids = [row.id for row in rows]
    rewards, marks = queries.sample_rewards(session, ids), queries.sample_marks(session, ids)
    return [_view(row, rewards, marks.get(row.id)) for row in rows]


def image_bytes(blobs: BlobStore, sha256: str, *, format: ImageFormat, size: int | None) -> bytes:
    """A stored PNG as it is, or decoded and written anew: without losses but for JPEG, never enlarged.

    Args:
        size: longest edge in pixels; None keeps the image's own.

    Raises:
        NotFoundError, CorruptDataError: the blob is missing, does not match its hash, or is no image.
    """
    stored = blobs.get(sha256)
    if format == "png" and size is None:
        return stored
    try:
        with Image.open(io.BytesIO(stored), formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"Blob {sha256[:12]} is not a PNG image that can be decoded.") from error
    if size is not None:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    match format:
        case "png":
            picture.save(out, "PNG")
        case "webp":
            picture.save(out, "WEBP", lossless=True)
        case "jpeg":
            picture.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def image_etag(sha256: str, *, format: ImageFormat, size: int | None) -> str:
    """A strong validator: the stored bytes, and what was made of them."""
    return f'"{sha256}"' if format == "png" and size is None else f'"{sha256}-{format}-{size or "full"}"'


def require_image(session: Session, sha256: str) -> None:
    """Refuse every hash that is not the image of a sample or an uploaded one: other blobs are nobody's to download.

    Raises:
        NotFoundError: there is no such image.
    """
    if not queries.is_image(session, sha256):
        raise NotFoundError("There is no image of this hash.")


def _view(row: Sample, rewards: Mapping[UUID, dict[str, float]], mark: SampleMark | None) -> SampleView:
    path = f"/api/v1/samples/{row.id}"
    return SampleView(
        id=row.id,
        checkpoint_id=row.checkpoint_id,
        job_id=row.job_id,
        seed=row.seed,
        steps=row.steps,
        eta=row.eta,
        width=row.width,
        height=row.height,
        sha256=row.sha256,
        rewards=rewards.get(row.id, {}),
        starred=mark.starred if mark else False,
        tags=mark.tags if mark else [],
        note=mark.note if mark else "",
        created_at=row.created_at,
        links=SampleLinks(
            image=f"{path}/image",
            thumbnail=f"{path}/image?size={THUMBNAIL_EDGE}",
            transitions=f"{path}/transitions",
        ),
    )

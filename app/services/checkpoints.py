"""Checkpoints: browse them, register a base, hand out the files."""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.adapters import checkpoint_store
from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Checkpoint, Measurement
from app.db.queries import gallery as queries
from app.db.queries.gallery import CheckpointFilter
from app.db.queries.keyset import Position, Slice
from app.domain.bundled import BUNDLED
from app.domain.documented import Documented
from app.domain.enums import CheckpointKind
from app.domain.errors import ConflictError, CorruptDataError, NotFoundError
from app.domain.marks import Marks
from app.domain.sources import folder_inside, is_hub_id, refused
from app.services import audit
from app.services.accounts import Principal
from app.services.marks import marks as retraction_marks
from app.services.zip_stream import Pieces

_CHUNK = 1 << 20


class MeasuredReward(BaseModel):
    """Mean and standard error of a reward over `n` fixed seeds."""

    mean: float
    sem: float
    n: int


class CheckpointView(Documented):
    """A checkpoint as the API and the pages show it."""

    id: UUID
    name: str
    kind: CheckpointKind
    parent_id: UUID | None
    job_id: UUID | None
    epoch: int | None
    created_at: datetime
    image_size: int
    """Edge in pixels."""
    rewards: dict[str, MeasuredReward]
    diversity: float | None
    kl_nats: float | None
    """KL of a trajectory to the reference policy."""
    tags: list[str]
    rests_on_retracted_votes: bool
    """Whether it was finetuned, at any remove, toward a reward model that was trained on votes retracted since."""
    starred: bool
    note: str
    n_samples: int
    n_bytes: int | None
    """Size of its files; null until it has been measured, minutes after it was made."""
    source: str
    deleted_at: datetime | None
    """When it was put into the bin, from where it can be restored."""
    links: dict[str, str] = Field(examples=[{"self": "/api/v1/checkpoints/..."}])


@dataclass(frozen=True)
class StoredSource:
    """A base model whose files are in the blob store, ready to be registered."""

    name: str
    source: str
    manifest_sha256: str
    image_size: int


def list_checkpoints(
    session: Session,
    *,
    parent_id: UUID | None = None,
    kind: CheckpointKind | None = None,
    name: str | None = None,
    tag: str | None = None,
    starred: bool = False,
    deleted: bool = False,
    after: Position | None = None,
    limit: int = 50,
) -> Slice[CheckpointView]:
    """Newest first; `name` is a part of the name, `deleted` lists the bin instead of the library."""
    wanted = CheckpointFilter(parent_id=parent_id, kind=kind, name=name, tag=tag, starred=starred, deleted=deleted)
    found = queries.checkpoints(session, wanted, after=after, limit=limit)
    return Slice(views_of(session, found.items), found.end)


def get_checkpoint(session: Session, checkpoint_id: UUID) -> CheckpointView:
    """Raises NotFoundError."""
    return views_of(session, [require_checkpoint(session, checkpoint_id)])[0]


def existing(session: Session, checkpoint_ids: Sequence[UUID]) -> list[CheckpointView]:
    """Those of the checkpoints that are there and not deleted, in the order asked for."""
    found = queries.existing_checkpoints(session, checkpoint_ids)
    return views_of(session, [found[id] for id in dict.fromkeys(checkpoint_ids) if id in found])


def require_checkpoint(session: Session, checkpoint_id: UUID) -> Checkpoint:
    """Raises NotFoundError, also for one that is in the bin."""
    row = session.get(Checkpoint, checkpoint_id)
    if row is None:
        raise NotFoundError(f"There is no checkpoint {checkpoint_id}; GET /api/v1/checkpoints lists them.")
    if row.deleted_at is not None:
        raise NotFoundError(
            f"The checkpoint {row.name!r} was deleted on {row.deleted_at:%Y-%m-%d} and is in the bin; restore it there "
            f"(the page /storage, or POST /api/v1/checkpoints/{checkpoint_id}/restore)."
        )
    return row


def mark_checkpoint(
    session: Session, who: Principal, checkpoint_id: UUID, marks: Marks, now: datetime
) -> CheckpointView:
    """Star, tag or note a checkpoint; marks are everybody's.

    Raises:
        NotFoundError: there is no such checkpoint.
    """
    row = require_checkpoint(session, checkpoint_id)
    changes = marks.model_dump(exclude_none=True)
    for name, value in changes.items():
        setattr(row, name, value)
    session.flush()
    audit.record(session, who.user_id, "checkpoint.mark", row.id, now, changed=", ".join(changes))
    return views_of(session, [row])[0]


def files_size(blobs: BlobStore, manifest_sha256: str) -> int:
    """Bytes of a stored checkpoint's files.

    Raises:
        NotFoundError, CorruptDataError: the manifest or a file of it is not there.
    """
    return sum(blobs.size(digest) for digest in checkpoint_store.manifest_files(blobs, manifest_sha256).values())


def views_of(session: Session, rows: Sequence[Checkpoint]) -> list[CheckpointView]:
    measured = queries.measurements(session, [row.id for row in rows])
    marked = retraction_marks(session).checkpoints
    return [_view(row, measured, rests_on_retracted_votes=row.id in marked) for row in rows]


def store_source(settings: Settings, blobs: BlobStore, *, name: str, source: str) -> StoredSource:
    """Find, check and store the files behind `source`. Takes time and no transaction; storing twice costs nothing.

    `source` is the name of a bundled model, a folder below the models folder, or a hub id (organisation/model), looked
    for in that order.

    Raises:
        InvalidSpecError: there is no such source, or the path is refused.
        CorruptDataError: the folder is not a checkpoint that can be used; names the file.
        UnavailableError: the hub cannot be reached.
    """
    folder = _find_folder(settings, source)
    image_size = checkpoint_store.validate_folder(folder).image_size
    return StoredSource(name, source, checkpoint_store.store_folder(blobs, folder), image_size)


def register_base(session: Session, who: Principal, stored: StoredSource, now: datetime) -> CheckpointView:
    """Make a base checkpoint of stored files. The same files may be registered again under another name.

    Raises:
        ConflictError: a base of this name exists.
    """
    if queries.base_is_named(session, stored.name):
        raise ConflictError(f"A base checkpoint named {stored.name!r} exists; choose another name, or use that one.")
    row = Checkpoint(
        name=stored.name,
        kind=CheckpointKind.BASE,
        source=stored.source,
        manifest_sha256=stored.manifest_sha256,
        image_size=stored.image_size,
        tags=[],
        n_samples=0,
        created_at=now,
    )
    session.add(row)
    session.flush()
    audit.record(session, who.user_id, "checkpoint.register", row.id, now, name=row.name, source=row.source)
    return views_of(session, [row])[0]


def zip_files(blobs: BlobStore, checkpoint: Checkpoint) -> Iterator[bytes]:
    """The checkpoint's `diffusers` folder as a zip file, in pieces; equal checkpoints give equal bytes.

    Raises:
        CorruptDataError: a file does not match its hash; the archive breaks off and cannot be opened.
    """
    files = checkpoint_store.manifest_files(blobs, checkpoint.manifest_sha256)
    out = Pieces()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, digest in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.file_size = blobs.size(digest)
            hasher = hashlib.sha256()
            with blobs.open(digest) as stream, archive.open(entry, "w") as target:
                while chunk := stream.read(_CHUNK):
                    hasher.update(chunk)
                    target.write(chunk)
                    yield out.take()
            if hasher.hexdigest() != digest:
                raise CorruptDataError(f"Blob {digest[:12]} does not match its hash; restore it from a backup.")
    yield out.take()


def _find_folder(settings: Settings, source: str) -> Path:
    if source in BUNDLED:
        return BUNDLED[source]
    folder = folder_inside(settings.models_root, source, field="source")
    if folder is not None:
        return folder
    if is_hub_id(source):
        return checkpoint_store.fetch_from_hub(source, settings.cache_dir)
    raise refused(
        "source",
        f"There is no bundled model and no folder of this name in the models folder. Bundled: {', '.join(BUNDLED)}; "
        "a model on the hub is written organisation/model.",
    )


def _view(
    row: Checkpoint, measured: Mapping[UUID, list[Measurement]], *, rests_on_retracted_votes: bool
) -> CheckpointView:
    path = f"/api/v1/checkpoints/{row.id}"
    return CheckpointView(
        id=row.id,
        name=row.name,
        kind=row.kind,
        parent_id=row.parent_id,
        job_id=row.job_id,
        epoch=row.epoch,
        created_at=row.created_at,
        image_size=row.image_size,
        rewards={m.name: MeasuredReward(mean=m.mean, sem=m.sem, n=m.n) for m in measured.get(row.id, [])},
        diversity=row.diversity,
        kl_nats=row.kl_nats,
        tags=row.tags,
        rests_on_retracted_votes=rests_on_retracted_votes,
        starred=row.starred,
        note=row.note,
        n_samples=row.n_samples,
        n_bytes=row.n_bytes,
        source=row.source,
        deleted_at=row.deleted_at,
        links={"self": path, "lineage": f"{path}/lineage", "download": f"{path}/download"},
    )

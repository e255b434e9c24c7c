"""Deleting checkpoints: what depends on one, into the bin and back, and gone for good after some days.

A checkpoint is deleted only when nothing depends on it. It is hidden at once and purged when `undo_delete_hours` have
passed; until then it can be restored whole.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters import checkpoint_store
from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Checkpoint, Job
from app.db.queries import bin as queries
from app.db.queries.blob_refs import BlobRole, blob_references
from app.db.session import Database
from app.domain.documented import Documented
from app.domain.errors import ConflictError, NotFoundError, TastemakerError
from app.services import audit
from app.services.accounts import Principal
from app.services.blob_needs import needed_blobs
from app.services.checkpoints import CheckpointView, require_checkpoint, views_of

logger = logging.getLogger(__name__)

BLOB_GRACE = timedelta(days=1)
"""A blob that was stored more recently stays: a job may have stored it for a row that it has not written yet."""
_JOBS_SHOWN = 20


class Dependent(Documented):
    """Something that would be affected, and whether it keeps the checkpoint from being deleted."""

    kind: Literal["checkpoint", "job", "campaign", "other"]
    id: UUID | None
    name: str
    blocks: bool
    why: str
    """A phrase that goes on from the name."""


class DeletionPreview(Documented):
    """What deleting a checkpoint would do."""

    checkpoint_id: UUID
    name: str
    can_delete: bool
    dependents: list[Dependent]
    n_samples: int
    """Its samples go with it."""
    n_bytes: int | None
    """What its model files hold and no other checkpoint needs; null while it has not been measured."""
    undo_hours: int
    """How long it could be restored."""


def preview(session: Session, settings: Settings, checkpoint_id: UUID) -> DeletionPreview:
    """Raises NotFoundError."""
    row = require_checkpoint(session, checkpoint_id)
    dependents = _dependents(session, row)
    return DeletionPreview(
        checkpoint_id=row.id,
        name=row.name,
        can_delete=not any(dependent.blocks for dependent in dependents),
        dependents=dependents,
        n_samples=row.n_samples,
        n_bytes=0 if queries.same_files(session, row) else row.n_bytes,
        undo_hours=settings.undo_delete_hours,
    )


def delete(session: Session, who: Principal | None, checkpoint_id: UUID, now: datetime) -> CheckpointView:
    """Put a checkpoint into the bin; `who` is nobody where the retention rule acts by itself.

    Raises:
        NotFoundError: there is no such checkpoint, or it is in the bin already.
        ConflictError: something depends on it; names what.
    """
    require_checkpoint(session, checkpoint_id)
    row = queries.locked(session, checkpoint_id)
    assert row is not None
    blocking = [dependent for dependent in _dependents(session, row) if dependent.blocks]
    if blocking:
        reasons = "; ".join(f"{dependent.name} {dependent.why}" for dependent in blocking[:5])
        more = f"; and {len(blocking) - 5} more" if len(blocking) > 5 else ""
        raise ConflictError(f"{row.name!r} cannot be deleted while something depends on it: {reasons}{more}.")
    row.deleted_at = now
    session.flush()
    audit.record(session, who.user_id if who else None, "checkpoint.delete", row.id, now, name=row.name)
    return views_of(session, [row])[0]


def restore(session: Session, who: Principal, checkpoint_id: UUID, now: datetime) -> CheckpointView:
    """Take a checkpoint out of the bin; one that is not in it stays as it is.

    Raises:
        NotFoundError: it never was, or it has been purged.
        ConflictError: what it was finetuned from is in the bin itself.
    """
    row = queries.locked(session, checkpoint_id)
    if row is None:
        raise NotFoundError(f"There is no checkpoint {checkpoint_id}; if it was deleted, it has been purged.")
    if row.deleted_at is None:
        return views_of(session, [row])[0]
    parent = session.get(Checkpoint, row.parent_id) if row.parent_id is not None else None
    if parent is not None and parent.deleted_at is not None:
        raise ConflictError(
            f"{row.name!r} was finetuned from {parent.name!r}, which is deleted too; restore that first."
        )
    row.deleted_at = None
    session.flush()
    audit.record(session, who.user_id, "checkpoint.restore", row.id, now, name=row.name)
    return views_of(session, [row])[0]


def blocked(session: Session, rows: Sequence[Checkpoint]) -> Mapping[UUID, str]:
    """Which of many checkpoints cannot be deleted, with one reason each."""
    ids = [row.id for row in rows]
    reasons = dict.fromkeys(queries.has_other_references(session, ids), "other rows need it")
    reasons |= {
        id: f"the campaign {found[0].name!r} shows it" for id, found in queries.campaigns_showing(session, ids).items()
    }
    reasons |= {id: f"{found[0].name!r} was finetuned from it" for id, found in queries.children(session, ids).items()}
    for job in queries.open_jobs(session):
        spec = str(job.spec)
        reasons |= {
            row.id: f"the job {job.name!r} needs it" for row in rows if row.job_id == job.id or str(row.id) in spec
        }
    return reasons


def purge_due(database: Database, blobs: BlobStore, settings: Settings, now: datetime) -> int:
    """Delete for good what has been in the bin for long enough, one transaction a checkpoint. Returns how many.

    What something has come to depend on meanwhile stays in the bin. A process that dies between the rows and the blobs
    leaves blobs that nothing needs, which `tastemaker doctor` counts.
    """
    due = now - timedelta(hours=settings.undo_delete_hours)
    with database.reader() as session:
        ids = [row.id for row in queries.deleted_before(session, due)]
    digests: set[str] = set()
    n = 0
    for id in ids:
        with database.writer() as session:
            row = queries.locked(session, id)
            if row is None or row.deleted_at is None or row.deleted_at >= due:
                continue  # restored, or purged by another process
            if queries.has_children(session, id) or blocked(session, [row]):
                continue
            digests |= _files(blobs, row.manifest_sha256) | queries.purge(session, row)
            audit.record(session, None, "checkpoint.purge", id, now, name=row.name)
            n += 1
    if digests:
        _remove_blobs(database, blobs, digests, now)
    return n


def _dependents(session: Session, row: Checkpoint) -> list[Dependent]:
    found = [
        Dependent(kind="checkpoint", id=child.id, name=child.name, blocks=True, why="was finetuned from it")
        for child in queries.children(session, [row.id]).get(row.id, [])
    ]
    campaigns = queries.campaigns_showing(session, [row.id]).get(row.id, [])
    found += [
        Dependent(kind="campaign", id=campaign.id, name=campaign.name, blocks=True, why="shows its samples to raters")
        for campaign in campaigns
    ]
    if not campaigns:  # whose pairs and comparisons these would be
        found += [
            Dependent(kind="other", id=None, name=f"{n} rows of {table}", blocks=True, why="need it")
            for table, n in queries.other_references(session, row.id).items()
        ]
    jobs = list(queries.jobs_naming(session, row.id, limit=_JOBS_SHOWN))
    if row.job_id is not None and row.job_id not in {job.id for job in jobs}:
        jobs.insert(0, session.get_one(Job, row.job_id))
    resumable = {job.id for job in queries.resumable_from(jobs)}
    return found + [_as_dependent(job, row, job.id in resumable) for job in jobs]


def _as_dependent(job: Job, row: Checkpoint, resumable: bool) -> Dependent:
    if not job.status.is_final:
        why, blocks = f"is {job.status.value} and needs it", True
    elif job.id == row.job_id:
        why, blocks = "made it, and would lose this result", False
    elif resumable:
        why, blocks = f"is {job.status.value} and could not be resumed any more", False
    else:
        why, blocks = "used it, and could not be repeated", False
    return Dependent(kind="job", id=job.id, name=job.name, blocks=blocks, why=why)


def _files(blobs: BlobStore, manifest_sha256: str) -> set[str]:
    try:
        return set(checkpoint_store.manifest_files(blobs, manifest_sha256).values())
    except TastemakerError:
        logger.warning("the manifest %s of a purged checkpoint cannot be read; its files stay", manifest_sha256[:12])
        return set()


def _remove_blobs(database: Database, blobs: BlobStore, digests: Iterable[str], now: datetime) -> None:
    """Remove those blobs that no row needs any more."""
    roles = [role for role in BlobRole if role is not BlobRole.IMAGE]
    with database.reader() as session:
        unneeded = set(digests) - queries.images_in_use(session, digests)
        references = list(blob_references(session, roles))
    for _, needed in needed_blobs(blobs, references):
        if isinstance(needed, str):
            unneeded.discard(needed)
    for digest in unneeded:
        blobs.delete_if_older(digest, now - BLOB_GRACE)

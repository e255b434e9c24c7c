"""Which rows need which blobs: the one list that backups copy and `tastemaker doctor` checks.

A new column that names a blob belongs into `_COLUMNS`; `Embedding.image_sha256` is a cache's key and needs no blob.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.models import Checkpoint, Job, LabelSnapshot, RewardModel, Sample, Upload
from app.db.queries.bulk import in_chunks

_Digest = InstrumentedAttribute[str] | InstrumentedAttribute[str | None] | ColumnElement[str]


class BlobRole(StrEnum):
    """What a blob is to the row that names it."""

    RESUME_STATE = "resumable state"
    MANIFEST = "manifest"
    IMAGE = "image"
    LABELS = "label snapshot"
    REWARD_HEAD = "reward model"
    ANALYSIS = "analysis"
    VALUES = "values of a part"
    UPLOAD = "uploaded image"


class BlobReference(NamedTuple):
    """Row `row_id` of `table` needs the blob `digest`."""

    digest: str
    role: BlobRole
    table: str
    row_id: UUID


_COLUMNS: dict[BlobRole, tuple[InstrumentedAttribute[UUID], _Digest]] = {
    BlobRole.RESUME_STATE: (Job.id, Job.resume_sha256),
    BlobRole.MANIFEST: (Checkpoint.id, Checkpoint.manifest_sha256),
    BlobRole.IMAGE: (Sample.id, Sample.sha256),
    BlobRole.LABELS: (LabelSnapshot.id, LabelSnapshot.sha256),
    BlobRole.REWARD_HEAD: (RewardModel.id, RewardModel.blob_sha256),
    BlobRole.ANALYSIS: (Job.id, Job.result["analysis_sha256"].as_string()),
    BlobRole.VALUES: (Job.id, Job.result["values_sha256"].as_string()),
    BlobRole.UPLOAD: (Upload.id, Upload.sha256),
}


def blob_references(session: Session, roles: Sequence[BlobRole] = tuple(BlobRole)) -> Iterator[BlobReference]:
    """Every reference of these roles, streamed. What a manifest or an analysis names in turn is theirs."""
    for role in roles:
        id, digest = _COLUMNS[role]
        rows = session.execute(select(id, digest).where(digest.is_not(None)).execution_options(yield_per=1000))
        for row_id, name in rows:
            assert name is not None
            yield BlobReference(name, role, id.class_.__tablename__, row_id)


def still_referenced(session: Session, references: Sequence[BlobReference]) -> set[BlobReference]:
    """Those references that still hold, for reports made while jobs replace their resumable states."""
    found: set[BlobReference] = set()
    for role in {reference.role for reference in references}:
        id, digest = _COLUMNS[role]
        for chunk in in_chunks([reference for reference in references if reference.role is role]):
            now = dict(
                session.execute(select(id, digest).where(id.in_([item.row_id for item in chunk]))).tuples().all()
            )
            found.update(reference for reference in chunk if now.get(reference.row_id) == reference.digest)
    return found

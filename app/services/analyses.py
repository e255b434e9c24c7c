"""Analyses: jobs of the kind `analyze`, the document that each leaves, and the images that the document names."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Job
from app.db.queries import analyses as queries
from app.db.queries.keyset import Position, Slice
from app.domain.documented import Documented
from app.domain.enums import AnalysisKind, JobKind, JobStatus
from app.domain.errors import NotFoundError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DOCUMENTS_IN_MEMORY = 8


class AnalysisView(Documented):
    """An analysis; its id is its job's."""

    id: UUID
    kind: AnalysisKind
    name: str
    status: JobStatus
    progress: float
    """0 to 1."""
    error: str | None
    checkpoint_ids: list[UUID]
    """The first is the one that the others are compared with."""
    spec: dict[str, Any]
    sha256: str | None
    """Hash of the document: the same spec gives the same one. Empty until the job has succeeded."""
    created_at: datetime
    finished_at: datetime | None
    links: dict[str, str] = Field(examples=[{"self": "/api/v1/analyses/...", "job": "/api/v1/jobs/..."}])


class AnalysisWithDocument(AnalysisView):
    document: dict[str, Any] | None = Field(
        description="What was found; empty until the job has succeeded. `diversity`: `{copy_threshold, diversity: "
        "[{vendi: {value, interval}, mean_pairwise_distance, near_copies}]}`, one entry a checkpoint. "
        "`embedding_map`: `{images, rewards, maps: [{pca: {base, finetuned, explained_variance}, tsne}]}`. "
        "`reward_trajectory`: `{trajectories: [{states, timesteps, rewards: {name: {noisy, denoised, best, worst}}}]}`."
        " `inversion`: `{inversions: [{image, noise, results: [{skip, image, psnr}]}]}`. Images are hashes, to be had "
        "at `links.images`.",
        examples=[
            {
                "kind": "diversity",
                "checkpoints": [{"id": "5f0c6c1e-0000-4000-8000-000000000000", "name": "critters-64"}],
                "seeds": [650, 651],
                "copy_threshold": 0.11,
                "diversity": [
                    {
                        "vendi": {"value": 11.8, "interval": [11.2, 12.5]},
                        "mean_pairwise_distance": {"value": 0.41, "interval": [0.4, 0.43]},
                        "near_copies": {"value": 0.01, "interval": [0.005, 0.02], "n": 1000},
                    }
                ],
            }
        ],
    )


def list_analyses(
    session: Session,
    *,
    kind: AnalysisKind | None = None,
    checkpoint_id: UUID | None = None,
    status: JobStatus | None = None,
    after: Position | None = None,
    limit: int = 50,
) -> Slice[AnalysisView]:
    """Newest first, those that are still running and those that failed too."""
    return queries.analyses(
        session, kind=kind, checkpoint_id=checkpoint_id, status=status, after=after, limit=limit
    ).map(view_analysis)


def get_analysis(session: Session, blobs: BlobStore, analysis_id: UUID) -> AnalysisWithDocument:
    """Raises NotFoundError: there is no such analysis, or its document has gone."""
    view = view_analysis(_require(session, analysis_id))
    document = None if view.sha256 is None else load_document(blobs, view.sha256)
    return AnalysisWithDocument(**view.model_dump(), document=document)


def require_image(session: Session, blobs: BlobStore, analysis_id: UUID, sha256: str) -> None:
    """Refuse every hash that this analysis does not name as an image: other blobs are nobody's to download.

    Raises:
        NotFoundError: there is no such image of this analysis.
    """
    view = view_analysis(_require(session, analysis_id))
    if view.sha256 is None or sha256 not in _images_of(blobs, view.sha256):
        raise NotFoundError("This analysis has no image of this hash.")


def view_analysis(job: Job) -> AnalysisView:
    path = f"/api/v1/analyses/{job.id}"
    return AnalysisView(
        id=job.id,
        kind=AnalysisKind(job.spec["kind"]),
        name=job.name,
        status=job.status,
        progress=job.progress,
        error=job.error,
        checkpoint_ids=[UUID(id) for id in job.spec["checkpoint_ids"]],
        spec=job.spec,
        sha256=(job.result or {}).get("analysis_sha256"),
        created_at=job.created_at,
        finished_at=job.finished_at,
        links={"self": path, "job": f"/api/v1/jobs/{job.id}", "images": f"{path}/images/{{sha256}}"},
    )


def load_document(blobs: BlobStore, sha256: str) -> dict[str, Any]:
    """What an analysis found. Raises NotFoundError where the blob is gone, CorruptDataError where it is torn."""
    document: dict[str, Any] = json.loads(_document_bytes(blobs, sha256))
    return document


def _require(session: Session, analysis_id: UUID) -> Job:
    job = session.get(Job, analysis_id)
    if job is None or job.kind is not JobKind.ANALYZE:
        raise NotFoundError(f"There is no analysis {analysis_id}; GET /api/v1/analyses lists them.")
    return job


@lru_cache(maxsize=_DOCUMENTS_IN_MEMORY)
def _document_bytes(blobs: BlobStore, sha256: str) -> bytes:
    return blobs.get(sha256)


@lru_cache(maxsize=_DOCUMENTS_IN_MEMORY)
def _images_of(blobs: BlobStore, sha256: str) -> frozenset[str]:
    return frozenset(_hashes_in(load_document(blobs, sha256)))


def _hashes_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _hashes_in(item)

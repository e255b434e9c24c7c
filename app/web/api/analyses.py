"""/analyses: what was found in checkpoints; /images: uploads to analyse; the over-optimisation report."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, File, Path, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from app.domain.enums import AnalysisKind, JobStatus
from app.services import analyses, over_optimisation, uploads
from app.services.analyses import AnalysisView, AnalysisWithDocument
from app.services.over_optimisation import OverOptimisationReport
from app.services.uploads import StoredImage, UploadView
from app.web.api.problems import problems
from app.web.caching import immutable_response
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, ReadSession, WriteSession
from app.web.idempotency import ApiRoute
from app.web.pagination import After, Limit, Page

router = APIRouter(tags=["analyses"], route_class=ApiRoute)


@router.get("/analyses", summary="List analyses, newest first")
def list_analyses(
    session: ReadSession,
    _caller: CurrentOperator,
    after: After,
    limit: Limit = 50,
    kind: Annotated[AnalysisKind | None, Query(description="Only analyses of this kind.")] = None,
    checkpoint_id: Annotated[UUID | None, Query(description="Only those that look into this checkpoint.")] = None,
    status: Annotated[
        JobStatus | None, Query(description="Only those whose job is in this status; only `succeeded` has a document.")
    ] = None,
) -> Page[AnalysisView]:
    """Those that are still running, and those that failed, too. `POST /jobs` with the kind `analyze` starts one."""
    found = analyses.list_analyses(
        session, kind=kind, checkpoint_id=checkpoint_id, status=status, after=after, limit=limit
    )
    return Page.of(found)


@router.get("/analyses/{analysis_id}", summary="One analysis with all of its numbers", responses=problems(404))
def get_analysis(
    analysis_id: UUID, session: ReadSession, blobs: Blobs, _caller: CurrentOperator
) -> AnalysisWithDocument:
    return analyses.get_analysis(session, blobs, analysis_id)


@router.get(
    "/analyses/{analysis_id}/images/{sha256}",
    summary="An image that an analysis names",
    response_class=Response,
    responses=problems(
        404,
        besides={
            200: {"description": "The stored PNG.", "content": {"image/png": {}}},
            304: {"description": "The client has it already (`If-None-Match`)."},
        },
    ),
)
def get_analysis_image(
    analysis_id: UUID,
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    request: Request,
    session: ReadSession,
    blobs: Blobs,
    _caller: CurrentOperator,
) -> Response:
    """Immutable: cache it for ever, privately."""
    analyses.require_image(session, blobs, analysis_id, sha256)
    return immutable_response(request, etag=f'"{sha256}"', media_type="image/png", content=lambda: blobs.get(sha256))


@router.get(
    "/checkpoints/{checkpoint_id}/over-optimisation",
    summary="Did finetuning earn its reward, or exploit it?",
    responses=problems(404, 409),
)
def get_over_optimisation(
    checkpoint_id: UUID, session: ReadSession, blobs: Blobs, _caller: CurrentOperator
) -> OverOptimisationReport:
    """The optimised reward, rewards that were not, diversity, KL and the human win rate beside the base, and a verdict.

    409 for a checkpoint that no finetune made.
    """
    return over_optimisation.report_of(session, blobs, checkpoint_id)


async def _stored(
    file: Annotated[UploadFile, File(description="PNG, JPEG or WebP, 25 million pixels at most.")],
    _caller: CurrentOperator,
    settings: CurrentSettings,
    blobs: Blobs,
) -> StoredImage:
    """Decoding and storing takes time, so it happens before the transaction of the route begins."""
    data = await file.read(settings.max_upload_bytes + 1)
    return await run_in_threadpool(uploads.store_image, blobs, data, max_bytes=settings.max_upload_bytes)


@router.post("/images", status_code=201, summary="Upload an image to invert", responses=problems(409, 413))
def upload_image(
    stored: Annotated[StoredImage, Depends(_stored)],
    session: WriteSession,
    caller: CurrentOperator,
    now: Now,
    response: Response,
) -> UploadView:
    """As `multipart/form-data` with the field `file`. The image is decoded, turned upright, cut square around its
    centre, shrunk to 1,024 pixels where it is larger, and written anew without any metadata; the file itself is not
    kept. The same picture again is the same upload.
    """
    view = uploads.add_upload(session, caller, stored, now)
    response.headers["Location"] = f"/api/v1/images/{view.id}"
    return view


@router.get("/images/{image_id}", summary="One uploaded image", responses=problems(404))
def get_upload(image_id: UUID, session: ReadSession, _caller: CurrentOperator) -> UploadView:
    return uploads.get_upload(session, image_id)

"""/checkpoints: the library of models."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.enums import CheckpointKind
from app.domain.marks import Marks
from app.services import bin, checkpoints, lineage, sheets
from app.services.bin import DeletionPreview
from app.services.checkpoints import CheckpointView, StoredSource
from app.services.exports_images import MAX_IMAGES
from app.services.lineage import Lineage
from app.web.api.problems import problems
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, ReadSession, WriteSession
from app.web.idempotency import ApiRoute
from app.web.pagination import After, Limit, Page, clean

router = APIRouter(prefix="/checkpoints", tags=["checkpoints"], route_class=ApiRoute)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]


class CheckpointIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "critters-64", "source": "critters-64"}}
    )

    name: Name
    source: str = Field(
        min_length=1,
        max_length=300,
        description="A bundled model's name (`critters-64`), a folder below the server's models folder, or a hub id "
        "(`google/ddpm-celebahq-256`); looked for in this order.",
    )


def _stored(body: CheckpointIn, _caller: CurrentOperator, settings: CurrentSettings, blobs: Blobs) -> StoredSource:
    """Fetching and storing takes time, so it happens before the transaction of the route begins."""
    return checkpoints.store_source(settings, blobs, name=body.name, source=body.source)


@router.get("", summary="List checkpoints, newest first", responses=problems(404))
def list_checkpoints(
    session: ReadSession,
    _caller: CurrentOperator,
    after: After,
    limit: Limit = 50,
    parent_id: Annotated[UUID | None, Query(description="Only what was finetuned from this checkpoint.")] = None,
    kind: Annotated[CheckpointKind | None, Query(description="Only bases, or only what was finetuned.")] = None,
    name: Annotated[str | None, Query(max_length=120, description="Only where the name has this part.")] = None,
    tag: Annotated[str | None, Query(max_length=40, description="Only with this tag.")] = None,
    starred: Annotated[bool, Query(description="Only starred ones.")] = False,
    deleted: Annotated[bool, Query(description="The bin instead of the library.")] = False,
) -> Page[CheckpointView]:
    found = checkpoints.list_checkpoints(
        session, parent_id=parent_id, kind=kind, name=clean(name), tag=clean(tag), starred=starred, deleted=deleted,
        after=after, limit=limit,
    )  # fmt: skip
    return Page.of(found)


@router.post("", status_code=201, summary="Register a base checkpoint", responses=problems(409, 413, 503))
def register_checkpoint(
    stored: Annotated[StoredSource, Depends(_stored)],
    session: WriteSession,
    caller: CurrentOperator,
    now: Now,
    response: Response,
) -> CheckpointView:
    """Checks and stores a `diffusers` folder (safetensors only) and makes it a base checkpoint.

    A name is taken once (409); the same files may be registered again under another name.
    """
    view = checkpoints.register_base(session, caller, stored, now)
    response.headers["Location"] = view.links["self"]
    return view


@router.get("/{checkpoint_id}", summary="One checkpoint", responses=problems(404))
def get_checkpoint(checkpoint_id: UUID, session: ReadSession, _caller: CurrentOperator) -> CheckpointView:
    return checkpoints.get_checkpoint(session, checkpoint_id)


@router.patch("/{checkpoint_id}", summary="Star, tag or note a checkpoint", responses=problems(404))
def mark_checkpoint(
    checkpoint_id: UUID, body: Marks, session: WriteSession, caller: CurrentOperator, now: Now
) -> CheckpointView:
    return checkpoints.mark_checkpoint(session, caller, checkpoint_id, body, now)


@router.get("/{checkpoint_id}/dependents", summary="What deleting a checkpoint would do", responses=problems(404))
def preview_deletion(
    checkpoint_id: UUID, session: ReadSession, settings: CurrentSettings, _caller: CurrentOperator
) -> DeletionPreview:
    """Everything that would be affected, and whether any of it keeps the checkpoint from being deleted."""
    return bin.preview(session, settings, checkpoint_id)


@router.delete("/{checkpoint_id}", summary="Put a checkpoint into the bin", responses=problems(404, 409))
def delete_checkpoint(checkpoint_id: UUID, session: WriteSession, caller: CurrentOperator, now: Now) -> CheckpointView:
    """Refused (409) while something depends on it. It can be restored until it is purged."""
    return bin.delete(session, caller, checkpoint_id, now)


@router.post("/{checkpoint_id}/restore", summary="Take a checkpoint out of the bin", responses=problems(404, 409))
def restore_checkpoint(checkpoint_id: UUID, session: WriteSession, caller: CurrentOperator, now: Now) -> CheckpointView:
    return bin.restore(session, caller, checkpoint_id, now)


@router.get("/{checkpoint_id}/lineage", summary="Where a checkpoint comes from", responses=problems(404))
def get_lineage(checkpoint_id: UUID, session: ReadSession, _caller: CurrentOperator) -> Lineage:
    """Checkpoint, job, learned rewards, the frozen votes behind them and their campaign; ancestors and descendants."""
    return lineage.get_lineage(session, checkpoint_id)


@router.get(
    "/{checkpoint_id}/download",
    summary="The checkpoint's diffusers folder as a zip file",
    response_class=StreamingResponse,
    responses=problems(
        404, besides={200: {"content": {"application/zip": {}}, "description": "A zip file, streamed."}}
    ),
)
def download_checkpoint(
    checkpoint_id: UUID, session: ReadSession, blobs: Blobs, _caller: CurrentOperator
) -> StreamingResponse:
    checkpoint = checkpoints.require_checkpoint(session, checkpoint_id)
    pieces = checkpoints.zip_files(blobs, checkpoint)
    headers = {"Content-Disposition": f'attachment; filename="checkpoint-{checkpoint_id}.zip"'}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


@router.get(
    "/{checkpoint_id}/sheet",
    summary="Samples of a checkpoint as one picture",
    response_class=Response,
    responses=problems(404, 409, besides={200: {"description": "A PNG.", "content": {"image/png": {}}}}),
)
def get_sheet(
    checkpoint_id: UUID,
    session: ReadSession,
    blobs: Blobs,
    _caller: CurrentOperator,
    n: Annotated[int, Query(ge=1, le=MAX_IMAGES, description="How many samples, in the order of their seeds.")] = 64,
    seed: Annotated[int, Query(ge=0, le=2**31 - 1, description="The first seed.")] = 0,
    columns: Annotated[int | None, Query(ge=1, le=100, description="Images in a row; about square without it.")] = None,
    enlarge: Annotated[int, Query(ge=1, le=16, description="Whole factor; pixels stay crisp.")] = 1,
) -> Response:
    """Samples without guidance, of the recipe that was drawn most from this seed on. Sheets of the same seeds at other
    checkpoints show the same noise in the same places."""
    picture = sheets.sheet_of(session, blobs, checkpoint_id, n=n, seed=seed, columns=columns, enlarge=enlarge)
    headers = {"Content-Disposition": f'inline; filename="sheet-{checkpoint_id}.png"'}
    return Response(picture, media_type="image/png", headers=headers)

"""/media: sample images by content hash, for pages."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from app.services import gallery
from app.web.api.problems import problems
from app.web.caching import immutable_response
from app.web.deps import Blobs, CurrentOperator, ReadSession
from app.web.idempotency import ApiRoute

router = APIRouter(tags=["samples"], route_class=ApiRoute)


@router.get(
    "/media/{sha256}",
    summary="A sample's PNG by its hash",
    response_class=Response,
    responses=problems(
        404,
        besides={
            200: {"description": "The stored PNG.", "content": {"image/png": {}}},
            304: {"description": "The client has it already (`If-None-Match`)."},
        },
    ),
)
def get_media(
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    request: Request,
    session: ReadSession,
    blobs: Blobs,
    _caller: CurrentOperator,
) -> Response:
    """Only the images of samples and uploaded ones can be had here, no other blob."""
    gallery.require_image(session, sha256)
    return immutable_response(request, etag=f'"{sha256}"', media_type="image/png", content=lambda: blobs.get(sha256))

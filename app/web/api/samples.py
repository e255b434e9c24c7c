"""/samples: images with everything needed to draw them again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.db.queries.gallery import SampleFilter
from app.domain.marks import Marks
from app.services import gallery, sheets
from app.services.exports_images import MEDIA_TYPES, Format
from app.services.gallery import ImageFormat, SampleView, Transition
from app.services.image_change import difference_png
from app.web.api.problems import Responses, problems
from app.web.caching import immutable_response
from app.web.deps import Blobs, CurrentOperator, Now, ReadSession, WriteSession
from app.web.idempotency import ApiRoute
from app.web.negotiation import accepted_image_format
from app.web.pagination import Cursor, Limit, Page, clean, decode_cursor, decode_value_cursor

router = APIRouter(prefix="/samples", tags=["samples"], route_class=ApiRoute)

_IMAGE_RESPONSES: Responses = {
    200: {"description": "The image.", "content": {f"image/{name}": {} for name in ("png", "webp", "jpeg")}},
    304: {"description": "The client has it already (`If-None-Match`)."},
}


@router.get("", summary="List samples, newest first or by a reward", responses=problems(404))
def list_samples(
    session: ReadSession,
    _caller: CurrentOperator,
    cursor: Cursor = None,
    limit: Limit = 50,
    checkpoint_id: Annotated[UUID | None, Query(description="Only what this checkpoint drew.")] = None,
    seed: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only this seed.")] = None,
    tag: Annotated[str | None, Query(max_length=40, description="Only with this tag.")] = None,
    starred: Annotated[bool, Query(description="Only starred ones.")] = False,
    reward: Annotated[
        str | None,
        Query(max_length=200, description="Ordered by this reward, only those for which it is known."),
    ] = None,
    lowest: Annotated[bool, Query(description="With `reward`: the lowest first instead of the highest.")] = False,
) -> Page[SampleView]:
    tag, reward = clean(tag), clean(reward)
    if reward is None:
        found = gallery.list_samples(
            session, checkpoint_id=checkpoint_id, seed=seed, tag=tag, starred=starred, after=decode_cursor(cursor),
            limit=limit,
        )  # fmt: skip
        return Page.of(found)
    wanted = SampleFilter(checkpoint_id=checkpoint_id, seed=seed, tag=tag, starred=starred)
    after = decode_value_cursor(cursor)
    ranked = gallery.list_by_reward(session, wanted, reward, highest=not lowest, after=after, limit=limit)
    return Page.of(ranked)


@router.get("/{sample_id}", summary="One sample", responses=problems(404))
def get_sample(sample_id: UUID, session: ReadSession, _caller: CurrentOperator) -> SampleView:
    return gallery.get_sample(session, sample_id)


@router.patch("/{sample_id}", summary="Star, tag or note a sample", responses=problems(404))
def mark_sample(sample_id: UUID, body: Marks, session: WriteSession, _caller: CurrentOperator, now: Now) -> SampleView:
    return gallery.mark_sample(session, sample_id, body, now)


@router.get(
    "/{sample_id}/image",
    summary="A sample's image",
    response_class=Response,
    responses=problems(404, 406, besides=_IMAGE_RESPONSES),
)
def get_image(
    sample_id: UUID,
    request: Request,
    session: ReadSession,
    blobs: Blobs,
    _caller: CurrentOperator,
    format: Annotated[ImageFormat | None, Query(description="Wins over `Accept`; PNG without either.")] = None,
    size: Annotated[int | None, Query(ge=16, le=1024, description="Longest edge; never enlarges.")] = None,
) -> Response:
    """PNG and WebP are lossless. Immutable: cache it for ever, privately."""
    sample = gallery.require_sample(session, sample_id)
    chosen = format or accepted_image_format(request.headers.get("accept"))
    return immutable_response(
        request,
        etag=gallery.image_etag(sample.sha256, format=chosen, size=size),
        media_type=f"image/{chosen}",
        content=lambda: gallery.image_bytes(blobs, sample.sha256, format=chosen, size=size),
        vary="Accept",
    )


@router.get(
    "/{sample_id}/difference/{other_id}",
    summary="What differs between two samples",
    response_class=Response,
    responses=problems(404, 409, besides={
        200: {"description": "A PNG, black where nothing differs.", "content": {"image/png": {}}},
        304: {"description": "The client has it already (`If-None-Match`)."},
    }),
)  # fmt: skip
def get_difference(
    sample_id: UUID, other_id: UUID, request: Request, session: ReadSession, blobs: Blobs, _caller: CurrentOperator
) -> Response:
    """The absolute difference of every pixel and channel, three times as strong as it is. Immutable: cache it for ever,
    privately."""
    first, second = gallery.require_sample(session, sample_id), gallery.require_sample(session, other_id)
    return immutable_response(
        request,
        etag=f'"{first.sha256}-{second.sha256}-difference"',
        media_type="image/png",
        content=lambda: difference_png(blobs, first.sha256, second.sha256),
    )


@router.get("/{sample_id}/transitions", summary="One noise along its checkpoints", responses=problems(404))
def get_transitions(sample_id: UUID, session: ReadSession, _caller: CurrentOperator) -> list[Transition]:
    """What the same seed, steps and eta became at every checkpoint of the sample's line, in order: the base, then every
    saved epoch. A checkpoint that did not draw it has no sample."""
    return gallery.transitions(session, sample_id)


@router.get(
    "/{sample_id}/transitions/image",
    summary="One noise along its checkpoints, as one picture",
    response_class=Response,
    responses=problems(404, 409, besides={
        200: {"description": "An animation or a sheet.", "content": {media: {} for media in MEDIA_TYPES.values()}},
    }),
)  # fmt: skip
def get_transitions_image(
    sample_id: UUID,
    session: ReadSession,
    blobs: Blobs,
    _caller: CurrentOperator,
    format: Annotated[Format, Query(description="`gif` and `webp` are looping animations, `png` is a sheet.")] = "gif",
    enlarge: Annotated[int, Query(ge=1, le=16, description="Whole factor; pixels stay crisp.")] = 1,
    frame_ms: Annotated[int, Query(ge=20, le=10_000, description="How long a frame shows; the last one longer.")] = 250,
) -> Response:
    """The base first, then every saved epoch that drew this noise."""
    picture = sheets.transitions(session, blobs, sample_id, format=format, enlarge=enlarge, frame_ms=frame_ms)
    headers = {"Content-Disposition": f'inline; filename="transitions-{sample_id}.{format}"'}
    return Response(picture, media_type=MEDIA_TYPES[format], headers=headers)

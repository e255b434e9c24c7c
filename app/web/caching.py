"""Answers for content that never changes under its address."""

from collections.abc import Callable

from fastapi import Request
from starlette.responses import Response

IMMUTABLE = "private, max-age=31536000, immutable"


def immutable_response(
    request: Request, *, etag: str, media_type: str, content: Callable[[], bytes], vary: str | None = None
) -> Response:
    """The content with a strong ETag, or 304 to a client that has it. `private`: a shared cache must not keep it."""
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE} | ({"Vary": vary} if vary else {})
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(content(), media_type=media_type, headers=headers)


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    known = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in known or etag in known
